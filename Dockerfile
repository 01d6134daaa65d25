# `sdst serve` on a CPU. Build:  docker build -t sdst .
# Run:  docker run -p 8321:8321 -v sdst:/data -e SDST_TOKEN="$(openssl rand -hex 32)" \
#           -v "$PWD/runs/demo:/model:ro" sdst --checkpoint /model
FROM python:3.12-slim AS build
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ \
    && rm -rf /var/lib/apt/lists/*
RUN python -m venv /venv
ENV PATH=/venv/bin:$PATH PIP_NO_CACHE_DIR=1
# The largest layer first: it changes with PyTorch's version alone.
RUN pip install torch torchvision --index-url https://download.pytorch.org/whl/cpu
COPY . /src
RUN pip install '/src[serve]'

FROM python:3.12-slim
COPY --from=build /venv /venv
RUN useradd --create-home --uid 1000 sdst && install --directory --owner sdst /data
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1 SDST_CACHE=/data/cache
USER sdst
WORKDIR /data
VOLUME /data
EXPOSE 8321
HEALTHCHECK --start-period=60s CMD ["python", "-c", \
    "from urllib.request import urlopen; urlopen('http://127.0.0.1:8321/api/health', timeout=5)"]
# Exec form, so that `docker stop` reaches the server and it finishes what it answers.
ENTRYPOINT ["sdst", "serve", "--host", "0.0.0.0", "--library", "/data/library"]
