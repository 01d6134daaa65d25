"""A question that was asked before needs neither its backbone nor what that is made with."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from copy import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sdst import Grounder
from sdst.backbones import DEMO_BACKBONE
from sdst.errors import InputError
from sdst.ground import main
from sdst.grounding.cache import SENTENCE_FILE
from sdst.grounding.sentences import SENTENCES_KEPT, LazyBackbone
from tests.untrained import QUERIES, small_config, write_checkpoint

# Each takes a command longer to import than a cached question takes to answer.
NOT_NEEDED = {
    *("open_clip", "torchvision", "timm", "transformers", "tokenizers", "huggingface_hub"),
    *("torch._dynamo", "torch._inductor", "sympy", "accelerate", "tensorboard"),
    *("matplotlib", "scipy", "pandas", "lancedb", "pyarrow", "fastapi", "ray"),
}
ASK = """
import sys
from sdst.__main__ import main
assert main(sys.argv[1:]) == 0
print(*sys.modules, file=sys.stderr)
"""


def lazy(checkpoint: Path) -> Grounder:
    return Grounder(checkpoint, device="cpu", lazy=True)


def sentences(cache: Path) -> list[Path]:
    return sorted(cache.glob(f"*/{SENTENCE_FILE}"))


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """An untrained model whose backbone is an open_clip model in a folder of this test."""
    backbone = shutil.copytree(DEMO_BACKBONE, tmp_path / "backbone")
    config = small_config()
    data = replace(config.data, backbone=f"local-dir:{backbone}")
    return write_checkpoint(tmp_path / "run", replace(config, data=data))


def test_a_cached_question_needs_no_backbone(checkpoint, own_cache, film, tmp_path):
    first = lazy(checkpoint).ground(film, QUERIES)
    shutil.rmtree(tmp_path / "backbone")
    assert lazy(checkpoint).ground(film, QUERIES) == first
    with pytest.raises(InputError, match="backbone"):
        lazy(checkpoint).ground(film, "something else")


@pytest.mark.parametrize("packaged", [True, False])
def test_a_cached_question_imports_only_what_answering_needs(
    packaged, checkpoint, own_cache, film, tmp_path
):
    where = [] if packaged else ["--checkpoint", str(checkpoint)]
    ask = [*where, "--video", str(film), "--query", QUERIES[0], "--json"]
    assert main([*ask, str(tmp_path / "first.json")]) == 0
    command = [sys.executable, "-c", ASK, "ground", *ask, str(tmp_path / "second.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert NOT_NEEDED & set(done.stderr.splitlines()[-1].split()) == set()
    first, second = (json.loads((tmp_path / f"{x}.json").read_text()) for x in ("first", "second"))
    assert first == second


def test_answers_are_those_of_the_backbone_itself(untrained, own_cache, film):
    expected = Grounder(untrained, device="cpu").ground(film, QUERIES)
    assert lazy(untrained).ground(film, QUERIES) == expected
    assert lazy(untrained).ground(film, QUERIES) == expected


def test_the_unread_end_is_kept(untrained, own_cache):
    long = "a red square " * 40 + "spins"
    [expected] = Grounder(untrained, device="cpu").backbone.unread([long])
    assert expected.endswith("spins")
    for _ in range(2):
        assert lazy(untrained).backbone.unread([long, "a ball"]) == [expected, ""]


def test_a_damaged_sentence_is_encoded_anew(untrained, own_cache, caplog):
    [expected] = lazy(untrained).backbone.encode_text(QUERIES[:1])
    [file] = sentences(own_cache)
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    [found] = lazy(untrained).backbone.encode_text(QUERIES[:1])
    assert torch.equal(found.tokens, expected.tokens)
    assert sentences(own_cache) == [file]
    lazy(untrained).backbone.encode_text(QUERIES[:1])
    [warning] = [record for record in caplog.records if record.levelname == "WARNING"]
    assert "damaged" in warning.getMessage()


def test_the_limit_of_the_cache_is_of_sentences_too(untrained, own_cache, monkeypatch):
    monkeypatch.setenv("SDST_CACHE_GB", "0")
    lazy(untrained).backbone.encode_text(QUERIES)
    assert sentences(own_cache) == []


def test_many_sentences_are_not_kept(untrained, own_cache):
    texts = [f"the red square spins {i} times" for i in range(SENTENCES_KEPT + 1)]
    assert len(lazy(untrained).backbone.encode_text(texts)) == len(texts)
    assert sentences(own_cache) == []


def test_a_cache_that_cannot_be_written_is_done_without(untrained, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("SDST_CACHE", str(tmp_path / "file"))
    assert len(lazy(untrained).backbone.encode_text(QUERIES)) == len(QUERIES)


def test_what_was_encoded_last_is_not_encoded_twice(untrained, own_cache, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("SDST_CACHE", str(tmp_path / "file"))
    backbone = lazy(untrained).backbone
    first, second = backbone.encode_text(QUERIES[:1]), backbone.encode_text(QUERIES[:1])
    assert first[0] is second[0]


def test_a_named_backbone_is_checked_at_once(untrained, own_cache, tmp_path):
    with pytest.raises(InputError, match="nowhere"):
        Grounder(untrained, backbone=f"local-dir:{tmp_path / 'nowhere'}", lazy=True)


def test_all_else_is_the_backbones_own(untrained, own_cache):
    backbone, own = lazy(untrained).backbone, Grounder(untrained, device="cpu").backbone
    assert isinstance(backbone, LazyBackbone)
    for name in ("fingerprint", "layers", "image_size", "text_width", "embed_width"):
        assert getattr(backbone, name) == getattr(own, name)
    assert copy(backbone).name == own.name
    with pytest.raises(AttributeError):
        _ = backbone.colour  # pyright: ignore[reportAttributeAccessIssue]
