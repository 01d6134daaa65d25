"""`python -m benchmarks.serving --checkpoint DIR`: requests a second of `sdst serve`, and memory.

The server is a process of its own on this machine, with one rendered video. Clients ask it one
sentence a request over connections that stay open, each as soon as its last answer is there. Then
they ask until 10,000 are answered, and the server's memory is read from its metrics. Clients take
their share of the same cores; the server's own CPU time is what other programs change least.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path

from sdst.demo.render import write_video
from sdst.demo.scenes import ACTIONS, COLOURS, SHAPES, plan_scene
from sdst.errors import InputError, run

CLIENTS = (1, 8, 64)
MEMORY_EVERY, MEMORY_CLIENTS = 2000, 64
SENTENCES = [f"the {c} {s} does {a}" for c in COLOURS for s in SHAPES for a in ACTIONS]
JSON = {"Content-Type": "application/json"}


def main() -> None:
    """Measure and print two tables in Markdown."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving", description=__doc__)
    parser.add_argument("--checkpoint", type=Path, required=True, metavar="DIR")
    parser.add_argument("--seconds", type=float, default=20.0, help="for each number of clients")
    parser.add_argument("--queries", type=int, default=10_000, help="of the memory's table")
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as scratch,
        served(options.checkpoint, Path(scratch)) as port,
    ):
        path = f"/api/videos/{upload(port, Path(scratch))}/ground"
        load(port, path, 8, seconds=3)  # warms up
        print("| clients | requests/s | p50 ms | p99 ms | queries a batch | CPU ms a request |")
        print("|---|---|---|---|---|---|")
        for clients in CLIENTS:
            before = counts(port)
            taken = load(port, path, clients, options.seconds)
            queries, batches, cpu = (x - y for x, y in zip(counts(port), before, strict=True))
            cuts = statistics.quantiles(taken, n=100)
            print(
                f"| {clients} | {len(taken) / options.seconds:.0f} | {1e3 * cuts[49]:.0f} | "
                f"{1e3 * cuts[98]:.0f} | {queries / batches:.1f} | {1e3 * cpu / queries:.1f} |",
                flush=True,
            )
        print("\n| queries answered | memory of the server, MB |\n|---|---|")
        for asked in range(0, options.queries + 1, MEMORY_EVERY):
            resident = metric(port, "process_resident_memory_bytes")
            print(f"| {asked:,} | {resident / 1e6:.0f} |", flush=True)
            if asked < options.queries:
                load(port, path, MEMORY_CLIENTS, requests=MEMORY_EVERY)


@contextmanager
def served(checkpoint: Path, folder: Path) -> Iterator[int]:
    """The port of a server, for the block."""
    command = [sys.executable, "-m", "sdst.serve", "--checkpoint", str(checkpoint), "--port", "0"]
    command += ["--library", str(folder / "library"), "--quiet"]
    environment = os.environ | {"SDST_CACHE": str(folder / "cache")}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        found = re.match(r"http://127\.0\.0\.1:(\d+) ", process.stdout.readline())
        if found is None:
            raise InputError(f"{checkpoint}: cannot be served; its reason is above")
        try:
            yield int(found[1])
        finally:
            process.send_signal(signal.SIGTERM)


def upload(port: int, folder: Path) -> str:
    """The id of a rendered video once it is encoded."""
    write_video(plan_scene("test", 0, 0), folder / "film.mp4")
    content = (folder / "film.mp4").read_bytes()
    vid = json.loads(ask(port, "POST", "/api/videos?name=film.mp4", content))["id"]
    while json.loads(ask(port, "GET", f"/api/videos/{vid}"))["state"] != "ready":
        time.sleep(0.1)
    return vid


def load(
    port: int, path: str, clients: int, seconds: float | None = None, requests: int | None = None
) -> list[float]:
    """Seconds of every request that `clients` sent in `seconds`, or of so many requests."""
    until = time.perf_counter() + (float("inf") if seconds is None else seconds)
    each = sys.maxsize if requests is None else requests // clients

    def client(number: int) -> list[float]:
        connection = HTTPConnection("127.0.0.1", port, timeout=60)
        taken: list[float] = []
        while (began := time.perf_counter()) < until and len(taken) < each:
            sentence = SENTENCES[(number * 17 + len(taken)) % len(SENTENCES)]
            body = json.dumps({"queries": [sentence], "top": 5})
            connection.request("POST", path, body, JSON)
            reply = connection.getresponse()
            content = reply.read()
            if reply.status != 200:
                raise InputError(content.decode())
            taken.append(time.perf_counter() - began)
        connection.close()
        return taken

    with ThreadPoolExecutor(clients) as pool:
        return [second for taken in pool.map(client, range(clients)) for second in taken]


def ask(port: int, method: str, path: str, content: bytes | None = None) -> bytes:
    """A single request's answer."""
    connection = HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request(method, path, content)
    return connection.getresponse().read()


def metric(port: int, name: str) -> float:
    """A value that the server counts."""
    [value] = re.findall(rf"^{re.escape(name)} (\S+)$", ask(port, "GET", "/metrics").decode(), re.M)
    return float(value)


def counts(port: int) -> tuple[float, float, float]:
    """Queries that were answered, batches they were in, and the server's CPU time (s)."""
    total, count = (f'sdst_batch_queries_{name}{{kind="ground"}}' for name in ("sum", "count"))
    return metric(port, total), metric(port, count), metric(port, "process_cpu_seconds_total")


if __name__ == "__main__":
    run(main)
