"""A model of an index's cost at any size, from sizes and a few measured rates.

    python -m benchmarks.studies.index_cost --clips 1000000000 --width 512

An index of N clips has sqrt(N) partitions (`sdst.indexing.clip_index.partitions`). A query reads
all centers and the 8-bit codes of the partitions that it probes, then a few exact vectors, and
looks into the candidate videos:

    bytes    = 4 E sqrt(N) + probed (N / sqrt(N)) (E + 8) + 4 E refined
    seconds  = bytes / rate / cores + candidates * seconds per video

Training is k-means on `SAMPLED` clips for each partition, and every clip is compared with every
center once. What the model leaves out: the waits of a network, and how recall changes with N.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass

from sdst.errors import run
from sdst.indexing import clip_index
from sdst.indexing.clip_index import CANDIDATES, CLIPS_PER_CANDIDATE, partitions

ROW = 24  # bytes of a clip beside its vector: id, number and checksum, as Lance packs them
ROW_ID = 8  # bytes of a clip in a partition beside its code


@dataclass(frozen=True)
class Rates:
    """Of one core, assumed: of the order that 2 cores of a server have.

    Args:
        scan: bytes of codes compared a second.
        multiply: floating-point operations a second of training.
        look: seconds that a grounder takes for a candidate video.
    """

    scan: float = 2e9
    multiply: float = 2e10
    look: float = 2e-3


@dataclass(frozen=True)
class Cost:
    """Of an index: bytes on disk, bytes that are best in memory, core seconds of building; of a
    query: bytes read, core seconds of its two stages."""

    disk: float
    memory: float
    build: float
    read: float
    nearest: float
    look: float


def cost(clips: int, width: int, candidates: int = CANDIDATES, rates: Rates | None = None) -> Cost:
    """The cost of `clips` clips with embeddings of `width` numbers."""
    rates, parts = rates or Rates(), partitions(clips)
    trained = clips >= clip_index.TRAINED_FROM
    vectors, codes, centers = 4.0 * width * clips, (width + ROW_ID) * clips, 4.0 * width * parts
    if trained:
        passes = clip_index.TRAININGS * clip_index.SAMPLED * parts + clips
        build = 2.0 * width * parts * passes / rates.multiply
        probed = min(1.0, clip_index.PROBED / parts)
        refined = clip_index.REFINED * CLIPS_PER_CANDIDATE * candidates
        read = centers + probed * codes + 4.0 * width * min(refined, clips)
    else:
        codes = centers = build = 0.0
        read = vectors
    return Cost(
        disk=vectors + ROW * clips + codes + centers,
        memory=codes + centers,
        build=build,
        read=read,
        nearest=read / rates.scan,
        look=candidates * rates.look,
    )


def table(sizes: list[int], width: int, cores: int) -> str:
    """A line for every number of clips."""
    lines = [
        f"| clips of {width} | partitions | disk GB | memory GB | build, core hours "
        f"| read MB a query | nearest, ms on {cores} cores | looking, ms |",
        "|---" * 8 + "|",
    ]
    for clips in sizes:
        found = cost(clips, width)
        lines.append(
            f"| {clips:,} | {partitions(clips):,} | {found.disk / 1e9:,.1f} "
            f"| {found.memory / 1e9:,.1f} | {found.build / 3600:,.2f} | {found.read / 1e6:,.0f} "
            f"| {1e3 * found.nearest / cores:,.0f} | {1e3 * found.look / cores:,.0f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Print the costs of a million clips and more, in steps of ten, up to the given number."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.studies.index_cost",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--clips", type=int, default=10**9, help="default: %(default)s")
    add("--width", type=int, default=512, help="of an embedding (default: %(default)s)")
    add("--cores", type=int, default=2, help="default: %(default)s")
    options = parser.parse_args()
    steps = range(6, math.ceil(math.log10(options.clips)))
    sizes = [*(10**step for step in steps), options.clips]
    print(table(sizes, options.width, options.cores))


if __name__ == "__main__":
    run(main)
