"""Vector-index libraries side by side, and the accuracy and cost of a search in two stages.

python -m benchmarks.studies.clip_index libraries [--clips N]    libraries side by side
python -m benchmarks.studies.clip_index million [--clips N]      the index against all videos
python -m benchmarks.studies.clip_index demo --checkpoint DIR --store DIR --annotations FILE

Clips are made up: each is about a topic, a video, a scene and itself, in parts that fall by
dimension as those of real embeddings do. A query is a planted clip under noise (cosine about 0.6),
so that it comes from another distribution than the clips, as sentences do. Libraries that are not
installed are left out: pip install lancedb faiss-cpu usearch 'pymilvus[milvus-lite]'
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from sdst.data.annotations import read_annotations
from sdst.data.store.reader import FeatureStore
from sdst.data.store.writer import FeatureWriter
from sdst.errors import run
from sdst.grounding.cache import folder_size
from sdst.grounding.corpus import PartOfStore
from sdst.grounding.decode import Prediction
from sdst.grounding.search import Found, Ranking
from sdst.grounding.zero_shot import zero_shot_moments
from sdst.grounding.zero_shot_grounder import CLIP_SCALE, ZERO_SHOT_STRETCH
from sdst.indexing.build import update_index
from sdst.indexing.clip_index import ClipIndex
from sdst.memory import peak_memory

WIDTH = 128
TOPICS = 500
LOOKED_INTO, SAMPLE = 100, 300  # videos
LONGEST = 130  # clips of a video
TOP = 100  # clips, whose recall is measured
CLIP_NOISE, QUERY_NOISE = 0.6, 1.3
META = {"backbone": "made up", "fingerprint": "0", "clip_length": 2.0, "frames_per_clip": 1}


def made_up_videos(clips: int, width: int, seed: int = 0) -> Iterator[np.ndarray]:
    """Unit embeddings `[L, width]` of videos of 20 to 130 clips, `clips` in all."""
    generator = np.random.default_rng(seed)
    spectrum = np.arange(1, width + 1) ** -0.25
    topics = generator.standard_normal((TOPICS, width), np.float32)
    while clips > 0:
        length = min(int(generator.integers(20, LONGEST + 1)), clips)
        clips -= length
        video = generator.standard_normal(width) + topics[generator.integers(TOPICS)]
        scenes = generator.standard_normal((1 + length // 10, width))
        own = CLIP_NOISE * generator.standard_normal((length, width))
        vectors = (video + np.repeat(scenes, 10, axis=0)[:length] + own) * spectrum
        yield (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def planted_queries(
    vectors: np.ndarray, count: int, noise: float = QUERY_NOISE, seed: int = 1
) -> np.ndarray:
    """Unit `[count, E]`, clips drawn from `vectors` `[N, E]` under noise of this length."""
    generator = np.random.default_rng(seed)
    rows = np.sort(generator.choice(len(vectors), count, replace=False))
    added = generator.standard_normal((count, vectors.shape[1]))
    added *= noise / np.linalg.norm(added, axis=1, keepdims=True)
    queries = np.asarray(vectors[rows], np.float32) + added
    return (queries / np.linalg.norm(queries, axis=1, keepdims=True)).astype(np.float32)


def exact(vectors: np.ndarray, queries: np.ndarray, top: int, block: int = 50_000) -> np.ndarray:
    """Rows `[Q, top]` of the nearest vectors, best first, by comparing with all of them."""
    best, rows = np.empty((len(queries), 0), np.float32), np.empty((len(queries), 0), np.int64)
    for first in range(0, len(vectors), block):
        found = queries @ np.asarray(vectors[first : first + block], np.float32).T
        best = np.concatenate((best, found), axis=1)
        numbers = np.broadcast_to(np.arange(first, first + found.shape[1]), found.shape)
        rows = np.concatenate((rows, numbers), axis=1)
        kept = np.argsort(-best, axis=1, kind="stable")[:, :top]
        best, rows = np.take_along_axis(best, kept, 1), np.take_along_axis(rows, kept, 1)
    return rows


# A library: makes an index of vectors in a folder; what searches it.
Search = Callable[[np.ndarray, int], np.ndarray]


def lancedb_ivf(folder: Path, vectors: np.ndarray) -> Search:
    from lancedb.index import IvfSq

    return _lancedb(folder, vectors, IvfSq(distance_type="cosine", **_partitions(vectors)))


def lancedb_pq(folder: Path, vectors: np.ndarray) -> Search:
    from lancedb.index import IvfPq

    size = vectors.shape[1] // 4
    config = IvfPq(distance_type="cosine", num_sub_vectors=size, **_partitions(vectors))
    return _lancedb(folder, vectors, config)


def lancedb_rq(folder: Path, vectors: np.ndarray) -> Search:
    from lancedb.index import IvfRq

    return _lancedb(folder, vectors, IvfRq(distance_type="cosine", **_partitions(vectors)))


def lancedb_hnsw(folder: Path, vectors: np.ndarray) -> Search:
    from lancedb.index import HnswSq

    config = HnswSq(distance_type="cosine", num_partitions=1, m=16, ef_construction=100)
    return _lancedb(folder, vectors, config)


def _partitions(vectors: np.ndarray) -> dict[str, Any]:
    return {"num_partitions": int(len(vectors) ** 0.5), "max_iterations": 10, "sample_rate": 64}


def _lancedb(folder: Path, vectors: np.ndarray, config: Any) -> Search:
    import lancedb
    import pyarrow as pa

    width = vectors.shape[1]
    kind = pa.schema([("row", pa.int64()), ("vector", pa.list_(pa.float32(), width))])
    table: Any = lancedb.connect(folder).create_table("clips", schema=kind)
    for first in range(0, len(vectors), 50_000):
        some = np.ascontiguousarray(vectors[first : first + 50_000])
        column = pa.FixedSizeListArray.from_arrays(pa.array(some.reshape(-1)), width)
        rows = pa.array(range(first, first + len(some)))
        table.add(pa.table([rows, column], schema=kind))
    table.create_index("vector", config=config)

    def search(query: np.ndarray, top: int) -> np.ndarray:
        found = table.search(query).distance_type("cosine").nprobes(32).refine_factor(4)
        found = found.ef(2 * top * 4) if "Hnsw" in type(config).__name__ else found
        return found.limit(top).select(["row", "_distance"]).to_arrow()["row"].to_numpy()

    return search


def faiss_ivf(folder: Path, vectors: np.ndarray) -> Search:
    return _faiss(folder, vectors, f"IVF{int(len(vectors) ** 0.5)},SQ8", "nprobe=32")


def faiss_hnsw(folder: Path, vectors: np.ndarray) -> Search:
    return _faiss(folder, vectors, "HNSW16_SQ8", "efSearch=200")


def _faiss(folder: Path, vectors: np.ndarray, factory: str, setting: str) -> Search:
    import faiss  # pyright: ignore[reportMissingImports], which may be absent

    index = faiss.index_factory(vectors.shape[1], factory, faiss.METRIC_INNER_PRODUCT)
    index.train(vectors[:: max(1, len(vectors) // (64 * int(len(vectors) ** 0.5)))])
    index.add(vectors)
    faiss.write_index(index, str(folder / "index"))
    faiss.ParameterSpace().set_index_parameters(index, setting)
    return lambda query, top: index.search(query[None], top)[1][0]


def usearch_hnsw(folder: Path, vectors: np.ndarray) -> Search:
    from usearch.index import Index  # pyright: ignore[reportMissingImports], likewise

    index = Index(
        ndim=vectors.shape[1],
        metric="cos",
        dtype="i8",
        connectivity=16,
        expansion_add=100,
        expansion_search=200,
    )
    index.add(np.arange(len(vectors)), vectors)
    index.save(str(folder / "index"))
    return lambda query, top: index.search(query, top).keys


def milvus_lite(folder: Path, vectors: np.ndarray) -> Search:
    from pymilvus import MilvusClient  # pyright: ignore[reportMissingImports], likewise

    client = MilvusClient(str(folder / "index.db"))
    client.create_collection("clips", dimension=vectors.shape[1], metric_type="COSINE")
    for first in range(0, len(vectors), 5_000):
        some = vectors[first : first + 5_000]
        rows = [{"id": first + i, "vector": vector} for i, vector in enumerate(some)]
        client.insert("clips", rows)
    client.flush("clips")

    def search(query: np.ndarray, top: int) -> np.ndarray:
        [found] = client.search("clips", [query], limit=top)
        return np.array([hit["id"] for hit in found])

    return search


LIBRARIES = {
    "LanceDB IVF_SQ": lancedb_ivf,
    "LanceDB IVF_RQ": lancedb_rq,
    "LanceDB IVF_PQ": lancedb_pq,
    "LanceDB HNSW_SQ": lancedb_hnsw,
    "FAISS IVF,SQ8": faiss_ivf,
    "FAISS HNSW,SQ8": faiss_hnsw,
    "USearch HNSW i8": usearch_hnsw,
    "Milvus Lite": milvus_lite,
}


def measure(name: str, folder: Path, out: Path) -> None:
    """Build and search by one library, in a process of its own; what was found goes to `out`."""
    vectors, queries = np.load(folder / "clips.npy"), np.load(folder / "queries.npy")
    place = folder / name.replace(" ", "-").replace(",", "-")
    place.mkdir()
    figures: dict[str, Any] = {}

    def build_and_search() -> None:
        search, _, figures["build cpu"] = timed(partial(LIBRARIES[name], place, vectors))
        search(queries[0], TOP)
        answers = [timed(partial(search, query, TOP)) for query in queries]
        figures["found"] = [[int(row) for row in rows] for rows, *_ in answers]
        figures["query cpu"] = statistics.median(cpu for *_, cpu in answers)

    figures["memory"] = peak_memory(build_and_search)
    figures["disk"] = folder_size(place)
    out.write_text(json.dumps(figures))


def compare(clips: int, queries: int, width: int, names: list[str]) -> str:
    """A line of a table for each library that is installed."""
    lines = [
        f"| {clips:,} clips of {width} | recall@{TOP} | recall@1 | build, CPU s | query, CPU ms "
        "| peak MB | disk MB |",
        "|---" * 7 + "|",
    ]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        vectors = np.concatenate(list(made_up_videos(clips, width)))
        asked = planted_queries(vectors, queries)
        np.save(folder / "clips.npy", vectors)
        np.save(folder / "queries.npy", asked)
        expected = exact(vectors, asked, TOP)
        del vectors
        for name in names:
            out = folder / "out.json"
            out.unlink(missing_ok=True)
            spawn = multiprocessing.get_context("spawn")
            process = spawn.Process(target=measure, args=(name, folder, out))
            process.start()
            process.join()
            if not out.exists():
                lines.append(f"| {name} | could not be run |")
                continue
            figures = json.loads(out.read_text())
            pairs = list(zip(figures["found"], expected.tolist(), strict=True))
            recall = statistics.mean(len({*found} & {*true}) / TOP for found, true in pairs)
            first = statistics.mean(true[0] in found for found, true in pairs)
            lines.append(
                f"| {name} | {recall:.3f} | {first:.3f} | {figures['build cpu']:.0f} "
                f"| {1e3 * figures['query cpu']:.1f} | {figures['memory'] / 1e6:.0f} "
                f"| {figures['disk'] / 1e6:.0f} |"
            )
            print(lines[-1], flush=True)
    return "\n".join(lines)


def write_made_up(path: Path, clips: int, width: int) -> FeatureStore:
    """A store of made-up videos; its tokens are of no use."""
    with FeatureWriter(path, META) as writer:
        for number, embedding in enumerate(made_up_videos(clips, width)):
            tokens = np.zeros((1, len(embedding), 1, 1), np.float16)
            writer.add_video(f"v{number:07}", 2.0 * len(embedding), tokens, embedding)
    return FeatureStore(path)


def best_moment(store: FeatureStore, vids: Sequence[str], query: np.ndarray) -> Found:
    """The top moment among these videos, by the frozen backbone as `ZeroShotGrounder.search`."""
    seconds, best = META["clip_length"], ranking()
    for vid in vids:
        video = store.video(vid)
        windows, saliency = zero_shot_moments(
            np.asarray(video.embedding), query, seconds, video.duration, top=1
        )
        best.add(vid, [Prediction(np.asarray(windows), saliency)])
    return best.best()[0][0]


def ranking() -> Ranking:
    """Of the top moment, as `ZeroShotGrounder.search` ranks."""
    return Ranking(1, 1, CLIP_SCALE, META["clip_length"], ZERO_SHOT_STRETCH)


def at_scale(
    clips: int, queries: int, width: int, candidates: Sequence[int], noises: Sequence[float]
) -> str:
    """The index of a corpus against looking into all of its videos.

    The top moment of all is exact: only videos that cannot hold it are not looked into
    (`top_of_all`). What looking into all costs is measured on `SAMPLE` videos.
    """
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        store = write_made_up(folder / "store", clips, width)
        vectors = np.memmap(store.path / "video_embeddings.bin", np.float16, "r")
        vectors = vectors.reshape(-1, width)
        update = partial(update_index, folder / "index", store)
        peak, seconds, cpu = timed(partial(peak_memory, update))
        built = (
            f"{len(store):,} videos, {len(vectors):,} clips of {width}: indexed in "
            f"{seconds:.0f} s ({cpu:.0f} s of CPU), peak {peak / 1e6:.0f} MB more, "
            f"{folder_size(folder / 'index') / 1e6:.0f} MB on disk"
        )
        print(built, flush=True)
        sample = store.video_ids[:: max(1, len(store) // SAMPLE)]
        [query] = planted_queries(vectors, 1)
        _, _, of_all = timed(lambda: best_moment(store, sample, query))
        of_all *= len(store) / len(sample)
        lines = [
            "| cosine of a query with its clip | candidates | top moment found | of the cost "
            "| CPU ms | ms | p95 ms |",
            "|---" * 7 + "|",
        ]
        for noise in noises:
            asked = planted_queries(vectors, queries, noise)
            expected = tops_of_all(store, vectors, asked)
            for count in candidates:
                index = ClipIndex(folder / "index", store, videos=count)
                figures = against_all(index, asked, expected, of_all)
                lines.append(f"| {(1 + noise**2) ** -0.5:.2f} | {count} | {figures} |")
                print(lines[-1], flush=True)
    return "\n".join([f"{built}; all videos: {of_all:.1f} s of CPU a query", "", *lines])


def against_all(
    index: ClipIndex, queries: np.ndarray, expected: Sequence[Found], of_all: float
) -> str:
    """Cells: how often the index leads to the top moment of all, and at which cost.

    Args:
        of_all: CPU seconds of looking into all videos.
    """
    index.candidates(queries[0])

    def search(query: np.ndarray) -> Found:
        return best_moment(index.store, index.candidates(query), query)

    answers = [timed(partial(search, query)) for query in queries]
    right = statistics.mean(
        found == true for (found, *_), true in zip(answers, expected, strict=True)
    )
    taken, cpu = (np.array([answer[i] for answer in answers]) for i in (1, 2))
    return (
        f"{right:.3f} | {np.median(cpu) / of_all:.2%} | {1e3 * np.median(cpu):.0f} "
        f"| {1e3 * np.median(taken):.0f} | {1e3 * np.quantile(taken, 0.95):.0f}"
    )


def tops_of_all(store: FeatureStore, vectors: np.ndarray, queries: np.ndarray) -> list[Found]:
    """The top moment among all videos for every query; `vectors` are those of the store's clips."""
    owner = np.repeat(np.arange(len(store)), [store.extent(vid)[0] for vid in store])
    best = best_cosines(vectors, owner, queries)
    return [top_of_all(store, *pair) for pair in zip(queries, best, strict=True)]


def best_cosines(vectors: np.ndarray, owner: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """`[Q, V]`, the cosine of every video's nearest clip; `owner` `[N]` has the video of each."""
    best = np.full((len(queries), owner[-1] + 1), -1, np.float32)
    for first in range(0, len(vectors), 50_000):
        some = slice(first, first + 50_000)
        found = queries @ np.asarray(vectors[some], np.float32).T
        for row, values in zip(best, found, strict=True):
            np.maximum.at(row, owner[some], values)
    return best


def top_of_all(store: FeatureStore, query: np.ndarray, cosines: np.ndarray) -> Found:
    """The top moment among all videos, of whose nearest clips the cosines `[V]` are given.

    The nearest videos are looked into, more and more of them until no other can hold a better one.
    """
    order = np.argsort(-cosines)
    count = LOOKED_INTO
    while True:
        found = best_moment(store, [store.video_ids[video] for video in order[:count]], query)
        others = order[count:]
        if not len(others):
            return found
        if least_worth(store, found, query) > most_worth(float(cosines[others[0]])):
            return found
        count *= 4


def least_worth(store: FeatureStore, found: Found, query: np.ndarray) -> float:
    """The least that log(score) + log o of a moment can be, by which a search ranks
    (`sdst.grounding.search`): its score may have been lowered for another video."""
    saliency = np.asarray(store.video(found.vid).embedding, np.float32) @ query
    window = [found.start, found.end, found.score]
    return float(np.log(found.score)) + ranking().evidence(
        window, Prediction(np.array([window]), saliency)
    )


def most_worth(cosine: float) -> float:
    """The most that log(score) + log o can be in a video whose nearest clip has this cosine.

    A score is a sum over clips, each of at most 1; log o is at most that of the nearest clip.
    """
    return float(np.log(LONGEST) + CLIP_SCALE * cosine)


def timed(call: Callable[[], Any]) -> tuple[Any, float, float]:
    """The result of `call`, its seconds, and its CPU seconds."""
    began, used = time.perf_counter(), time.process_time()
    return call(), time.perf_counter() - began, time.process_time() - used


def by_model(checkpoint: Path, store: Path, annotations: Path, queries: int, counts) -> str:
    """How often a trained model's top moment of all videos is that of the index's candidates."""
    from sdst import Grounder

    grounder = Grounder(checkpoint)
    [*asked] = dict.fromkeys(a.query for a in read_annotations(annotations))
    asked = asked[:: max(1, len(asked) // queries)][:queries]
    vids = {a.vid for a in read_annotations(annotations)}
    features = FeatureStore(store)
    corpus = PartOfStore(features, [vid for vid in features if vid in vids])
    expected, _, of_all = timed(lambda: grounder.search(corpus, asked, top=1))
    title = f"{len(corpus):,} videos, {len(asked)} queries"
    lines = [f"| {title}: candidates | top moment of all | CPU ms |", "|---|---|---|"]
    with tempfile.TemporaryDirectory() as folder:
        update_index(folder, features, corpus.vids)
        for count in counts:
            index = ClipIndex(folder, features, videos=count)
            found, _, cpu = timed(lambda index=index: grounder.search(index, asked, top=1))
            same = [
                (f.vid, f.start, f.end) == (t.vid, t.start, t.end)
                for [f], [t] in zip(found, expected, strict=True)
            ]
            lines.append(
                f"| {count} | {statistics.mean(same):.3f} | {1e3 * cpu / len(asked):.0f} |"
            )
    lines.append(f"| all | 1.000 | {1e3 * of_all / len(asked):.0f} |")
    return "\n".join(lines)


def main() -> None:
    """Print one of the tables."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.studies.clip_index",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("table", choices=("libraries", "million", "demo"))
    add("--clips", type=int, help="default: 100,000 for libraries, 1,000,000 for million")
    add("--queries", type=int, default=100, help="default: %(default)s")
    add("--only", nargs="+", choices=LIBRARIES, default=[*LIBRARIES], metavar="LIBRARY")
    add("--width", type=int, default=WIDTH, help="of an embedding (default: %(default)s)")
    add("--noise", type=float, nargs="+", default=[QUERY_NOISE, 2.0], help="of a million's queries")
    add("--candidates", type=int, nargs="+", default=[8, 16, 32, 64])
    add("--checkpoint", type=Path)
    add("--store", type=Path)
    add("--annotations", type=Path)
    options = parser.parse_args()
    if options.table == "libraries":
        print(compare(options.clips or 100_000, options.queries, options.width, options.only))
    elif options.table == "million":
        clips = options.clips or 1_000_000
        print(at_scale(clips, options.queries, options.width, options.candidates, options.noise))
    else:
        inputs = options.checkpoint, options.store, options.annotations
        print(by_model(*inputs, options.queries, options.candidates))


if __name__ == "__main__":
    run(main)
