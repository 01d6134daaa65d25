"""`train.compile`: the two blocks of the recurrence, compiled where they are."""

from __future__ import annotations

import os

from sdst.files.cache_folder import cache_dir
from sdst.model import SDST

CACHE = "TORCHINDUCTOR_CACHE_DIR"


def compile_blocks(model: SDST) -> None:
    """Compile the blocks, which every step runs anew: the least code for the most calls.

    What the compiler makes is kept in `cache_dir()`, unless its own variable names a folder.
    """
    os.environ.setdefault(CACHE, str(cache_dir() / "inductor"))
    for block in (model.dense_block, model.sparse_block):
        block.compile()
