"""A byte-pair vocabulary in open_clip's own format, small because the demo's English is."""

from __future__ import annotations

import gzip
import re
from collections import Counter
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

Pair = tuple[str, str]


def learn_merges(sentences: Iterable[str], most: int = 2000) -> list[Pair]:
    """Merge the most frequent pair until every word of `sentences` is one token."""
    counts = Counter(word for text in sentences for word in re.findall(r"[a-z]+", text.lower()))
    words = {(*word[:-1], word[-1] + "</w>"): n for word, n in counts.items()}
    merges: list[Pair] = []
    while len(merges) < most:
        pairs: Counter[Pair] = Counter()
        for word, n in words.items():
            for pair in pairwise(word):
                pairs[pair] += n
        if not pairs:
            break
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        words = {_merged(word, best): n for word, n in words.items()}
    return merges


def write_vocabulary(merges: Iterable[Pair], path: Path) -> None:
    """Write `merges` as open_clip's SimpleTokenizer reads them (`bpe_path`)."""
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    path.write_bytes(gzip.compress("\n".join(lines).encode(), mtime=0))


def _merged(word: tuple[str, ...], pair: Pair) -> tuple[str, ...]:
    out: list[str] = []
    for symbol in word:
        if out and (out[-1], symbol) == pair:
            out[-1] += symbol
        else:
            out.append(symbol)
    return tuple(out)
