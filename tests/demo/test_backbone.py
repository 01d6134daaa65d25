"""The packaged backbone, and the script it came from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch

from sdst.demo import BACKBONE
from sdst.demo.labels import ask
from sdst.demo.pretraining.probe import probe
from sdst.demo.pretraining.stills import make_stills
from sdst.demo.pretraining.train import VOCABULARY, pixels, pretrain
from sdst.demo.pretraining.vocabulary import learn_merges, write_vocabulary
from sdst.demo.scenes import COLOURS, SPLITS, plan_scene


@pytest.fixture(scope="module")
def tokenizer() -> open_clip.SimpleTokenizer:
    return open_clip.get_tokenizer(f"local-dir:{BACKBONE}", bpe_path=str(BACKBONE / VOCABULARY))


def test_the_packaged_folder_is_small() -> None:
    assert sum(path.stat().st_size for path in BACKBONE.iterdir()) <= 3 * 2**20


def test_every_word_of_a_query_is_one_token(tokenizer: open_clip.SimpleTokenizer) -> None:
    for split in SPLITS:
        for index in range(30):
            for question in ask(plan_scene(split, index, seed=0), 6, seed=0):
                words = question.query.replace(",", " ,").replace(".", " .").split()
                assert len(tokenizer.encode(question.query)) == len(words)


def test_open_clip_tells_a_still_by_its_caption(tokenizer: open_clip.SimpleTokenizer) -> None:
    model = open_clip.create_model(f"local-dir:{BACKBONE}").eval()
    stills = [s for s in make_stills(192, 64, seed=123_456, threads=1) if len(s.seen) == 1]
    colours = COLOURS
    with torch.no_grad():
        image = model.encode_image(pixels(stills), normalize=True)
        text = model.encode_text(tokenizer([f"a {c} object" for c in colours]), normalize=True)
    named = [colours[i] for i in (image @ text.T).argmax(1)]
    assert np.mean([n == s.seen[0].look.colour for n, s in zip(named, stills, strict=True)]) > 0.9


@pytest.mark.slow
def test_frozen_tokens_carry_place_size_and_identity() -> None:
    report = probe(BACKBONE, stills=4_000)
    assert report["x"] > 0.9
    assert report["y"] > 0.9
    assert report["diameter"] > 0.7
    assert report["presence"] > 0.9


def test_a_still_and_its_mirror_image_differ_in_x_only() -> None:
    still = make_stills(6, 64, seed=123_456, threads=1)[0]
    mirrored = still.mirrored()
    np.testing.assert_array_equal(mirrored.picture[:, ::-1], still.picture)
    assert [1 - thing.x for thing in mirrored.seen] == pytest.approx([t.x for t in still.seen])
    assert [thing.look for thing in mirrored.seen] == [thing.look for thing in still.seen]


def test_merges_make_every_word_of_the_corpus_one_token(tmp_path: Path) -> None:
    corpus = ["a red ball rolls", "the red star"]
    write_vocabulary(learn_merges(corpus), tmp_path / VOCABULARY)
    tokenizer = open_clip.SimpleTokenizer(str(tmp_path / VOCABULARY))
    assert all(len(tokenizer.encode(text)) == len(text.split()) for text in corpus)


def test_a_short_pretraining_writes_a_folder_that_open_clip_loads(tmp_path: Path) -> None:
    folder = tmp_path / "backbone"
    accuracy = pretrain(folder, steps=(2, 2), stills=96, held_out=96, batch_sizes=(8, 8))
    assert 0 <= accuracy <= 1
    assert open_clip.create_model(f"local-dir:{folder}").visual.image_size == (64, 64)
    assert list(tmp_path.iterdir()) == [folder]


def test_pretraining_is_a_function_of_its_seed(tmp_path: Path) -> None:
    weights = []
    for name in ("first", "second"):
        pretrain(tmp_path / name, steps=(2, 2), stills=96, held_out=96, batch_sizes=(8, 8), seed=1)
        weights.append((tmp_path / name / "open_clip_model.safetensors").read_bytes())
    assert weights[0] == weights[1]
