"""The native library and the process that it lives in."""

from __future__ import annotations

import multiprocessing
import sys

import pytest
import torch

from sdst.kernels import library, select_tokens

pytestmark = pytest.mark.skipif(
    library.missing_reason() is not None, reason=str(library.missing_reason())
)


@pytest.mark.skipif(sys.platform != "linux", reason="other builds of PyTorch may have no OpenMP")
def test_work_is_done_in_the_threads_of_pytorch() -> None:
    assert library.openmp() is not None


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of forking with threads: the point
def test_a_forked_child_computes_alone() -> None:
    tokens, u = torch.randn(40, 30, 1, 8), torch.randn(40, 8)
    expected = select_tokens(tokens, u, 5, implementation="native")

    def compute() -> None:
        found = select_tokens(tokens, u, 5, implementation="native")
        sys.exit(not all(map(torch.equal, found, expected)))

    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        child = multiprocessing.get_context("fork").Process(target=compute)
        child.start()
        child.join(60)
        child.kill()
    finally:
        torch.set_num_threads(threads)
    assert child.exitcode == 0


def test_samples_are_copied_only_where_one_is_not_contiguous() -> None:
    tokens = torch.randn(2, 3, 4, 5)
    shared = tokens[:1].expand(1000, -1, -1, -1)
    assert library.prepare_samples(shared) == (shared, 0)
    every_second = torch.randn(4, 3, 4, 5)[::2]
    assert library.prepare_samples(every_second) == (every_second, 120)
    within, apart = library.prepare_samples(tokens[:, :2, ::2])
    assert (within.is_contiguous(), apart) == (True, 20)
