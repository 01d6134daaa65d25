"""Show the size of the cache folder, and clear it of encoded videos and sentences.

Videos and sentences that `sdst ground` encodes are kept for the next question; the least recently
used are removed above $SDST_CACHE_GB gigabytes. The cache is in $SDST_CACHE, by default
~/.cache/sdst.
"""

from __future__ import annotations

from collections.abc import Sequence

from sdst.errors import run
from sdst.files.cache_folder import cache_dir
from sdst.grounding.cache import LIMIT, entries, folder_size, grounding_cache, limit, trim
from sdst.terminal.options import OneLineParser


def main(arguments: Sequence[str] | None = None) -> None:
    """The command; see `python -m sdst.cache --help`."""
    parser = OneLineParser("python -m sdst.cache", __doc__)
    parser.add_argument(
        "--clear",
        action="store_true",
        help="remove encoded videos and sentences that are not in use",
    )
    options = parser.parse_args(arguments)
    folder, most = grounding_cache(), limit()
    if options.clear:
        print(f"{folder}: {trim(folder, 0) / 1e9:.2f} GB freed")
    kept = entries(folder)
    taken = sum(entry.nbytes for entry in kept) / 1e9
    sentences = sum(entry.is_sentence for entry in kept)
    print(
        f"{folder}: {len(kept) - sentences} encoded videos and {sentences} sentences, "
        f"{taken:.2f} of {most / 1e9:g} GB ({LIMIT})"
    )
    others = cache_dir().iterdir() if cache_dir().is_dir() else ()
    for other in sorted(path for path in others if path.is_dir() and path != folder):
        print(f"{other}: {folder_size(other) / 1e9:.2f} GB")


if __name__ == "__main__":
    run(main)
