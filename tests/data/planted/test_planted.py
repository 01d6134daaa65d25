"""Planted features show a query's meaning in its moments, and are a function of the seed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sdst import train
from sdst.config import load_config
from sdst.config.files import packaged_configs
from sdst.convert import convert
from sdst.data.annotations import Annotation, read_annotations
from sdst.data.batches import collate
from sdst.data.feature_files import LAYOUTS
from sdst.data.planted.features import SHOWN, PlantedConfig, PlantedFeatures, relevance
from sdst.errors import InputError
from sdst.sources.dataset import open_data
from tests.layouts import write_annotations

CLIP_LENGTH = 2.0
CLIPS = 12
PLAIN = PlantedConfig(smear=0, distractors=0, layers=2)
UNLABELLED = Annotation(1, "a dog jumps", "park", CLIPS * CLIP_LENGTH)
DOG = replace(UNLABELLED, windows=((4, 10),))  # clips 2, 3, 4
RECIPES = [name for name in packaged_configs() if load_config(name).data.features != "encode"]


def plant(
    *annotations: Annotation, config: PlantedConfig = PLAIN, layout: str = "sdst", **options
) -> PlantedFeatures:
    sizes = {"layers": 4, "video_width": 512, "text_width": 24, "clip_length": CLIP_LENGTH}
    return PlantedFeatures(annotations, config, LAYOUTS[layout], **sizes, **options)


def planted(annotation: Annotation, config: PlantedConfig = PLAIN, layout: str = "sdst"):
    """[K, L, P, Dv], what a query's windows add to the features of its video."""
    bare = replace(annotation, windows=None, clip_ids=None, saliency=None, labels=None)
    with_windows = plant(annotation, config=config, layout=layout).video(annotation.vid).tokens
    return with_windows - plant(bare, config=config, layout=layout).video(annotation.vid).tokens


def strength(annotation: Annotation, config: PlantedConfig = PLAIN) -> np.ndarray:
    """[L], how much of it is in the last layer of each clip."""
    return np.linalg.norm(planted(annotation, config)[-1, :, 0], axis=-1)


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def options_for(root: Path) -> list[str]:
    """Of any recipe on planted features of the annotations that `write_annotations` wrote."""
    files = json.dumps({"train": "train.jsonl", "val": "val.jsonl"})
    return ["--data.root", str(root), "--data.planted", "true", "--data.annotations", files]


def test_a_moment_is_planted_in_its_clips_and_the_last_layers_alone():
    found = np.abs(planted(DOG)).max(axis=(2, 3)) > 1e-3
    expected = np.zeros((4, CLIPS), bool)
    expected[2:, 2:5] = True
    np.testing.assert_array_equal(found, expected)


def test_a_clip_that_a_moment_covers_half_has_half_of_it():
    found = strength(replace(DOG, windows=((5, 10),)))
    assert found[2] == pytest.approx(found[3] / 2, rel=1e-3)


def test_what_is_rated_higher_is_stronger():
    rated = replace(DOG, clip_ids=(2, 3, 4), saliency=((0, 0, 0), (2, 2, 2), (4, 4, 4)))
    found = strength(rated)
    np.testing.assert_allclose(found[2:5] / found[4], [0.5, 0.75, 1.0], rtol=1e-3)


def test_clips_labelled_above_average_are_planted_and_the_best_most():
    labels = ((1, 1), (5, 5), (1, 1), (3, 5), *[(1, 1)] * (CLIPS - 4))
    found = strength(replace(UNLABELLED, labels=labels, domain="park"))
    assert set(np.flatnonzero(found > 1e-3)) == {1, 3}
    mean = np.mean(labels, axis=1)
    expected = (mean[3] - mean.mean()) / (mean[1] - mean.mean())
    assert found[3] / found[1] == pytest.approx(expected, rel=1e-3)


def test_a_distractor_of_labelled_clips_is_as_long_as_they_are_many():
    labels = ((1,), (5,), (5,), *[(1,)] * (CLIPS - 3))
    annotation = replace(UNLABELLED, labels=labels, domain="park")
    found = strength(annotation, replace(PLAIN, distractors=1))
    assert np.count_nonzero(found > 1e-3) == 4


def test_overlapping_windows_are_not_more_than_whole():
    twice = replace(DOG, windows=((4, 8), (4, 8)))
    assert relevance(twice, CLIPS, CLIP_LENGTH).max() == 1


def test_smearing_blurs_the_edges_and_keeps_the_sum():
    sharp, blurred = strength(DOG), strength(DOG, replace(PLAIN, smear=1.0))
    assert blurred[1] > 0.1 * blurred[3]
    assert blurred.sum() == pytest.approx(sharp.sum(), rel=1e-2)


@pytest.mark.parametrize("likeness", [0.0, 0.5, 1.0])
def test_a_distractor_is_elsewhere_and_as_like_the_query_as_requested(likeness):
    found = planted(DOG, replace(PLAIN, distractors=1, likeness=likeness))[-1, :, 0]
    there = np.flatnonzero(np.linalg.norm(found, axis=-1) > 1e-3)
    elsewhere = np.setdiff1d(there, [2, 3, 4])
    assert len(elsewhere) == 3
    assert np.ptp(elsewhere) == 2
    assert cosine(found[3], found[elsewhere[0]]) == pytest.approx(likeness, abs=0.3)


def test_a_moment_of_the_whole_video_has_no_distractor():
    whole = replace(DOG, windows=((0, CLIPS * CLIP_LENGTH),))
    with_distractors = strength(whole, replace(PLAIN, distractors=3))
    np.testing.assert_array_equal(with_distractors, strength(whole))


def test_of_several_tokens_a_share_shows_the_moment():
    video = replace(DOG, windows=((0, 2),))
    source = plant(video, layout="r2_tuning")
    assert source.shapes["tokens_per_frame"] == 50
    found = np.abs(planted(video, layout="r2_tuning")[-1, 0]).max(axis=-1) > 1e-3
    assert found.sum() == SHOWN * 50


def test_rare_words_say_more_than_common_ones():
    queries = ["man", "eats", "man eats", "man sleeps", "man runs", "man jumps", "man sings"]
    source = plant(*(replace(DOG, qid=qid, query=text) for qid, text in enumerate(queries)))
    common, rare, both = (source.sentence(qid) for qid in range(3))
    assert both @ rare > both @ common


def test_the_same_sentence_means_the_same_in_another_video():
    again = replace(DOG, qid=2, vid="beach", query="A dog jumps!")
    source = plant(DOG, again)
    assert source.sentence(1) @ source.sentence(2) == pytest.approx(1, abs=1e-3)


def test_a_query_has_a_token_per_word_and_two_for_the_sentence():
    assert plant(DOG).query(1).tokens.shape == (4, 3 + 2, 24)
    assert plant(replace(DOG, query="...")).query(1).tokens.shape == (4, 1 + 2, 24)


def test_features_do_not_depend_on_what_was_asked_for_before():
    other = replace(DOG, qid=2, vid="beach", windows=((0, 4),))
    hard = PlantedConfig()
    first, second = plant(DOG, other, config=hard), plant(DOG, other, config=hard)
    first.video("beach"), first.query(2)
    np.testing.assert_array_equal(first.video("park").tokens, second.video("park").tokens)
    np.testing.assert_array_equal(first.query(1).tokens, second.query(1).tokens)


def test_another_seed_makes_other_features():
    again = plant(DOG, config=replace(PLAIN, seed=1))
    assert not np.allclose(plant(DOG).video("park").tokens, again.video("park").tokens)


def test_endpoints_are_the_last_two_numbers():
    tokens = plant(DOG, layout="moment_detr", endpoints=True).video("park").tokens
    assert tokens.shape == (1, CLIPS, 1, 512)
    np.testing.assert_allclose(tokens[0, :, 0, -1], np.arange(1, CLIPS + 1) / CLIPS)
    np.testing.assert_allclose(np.linalg.norm(tokens[..., :-2], axis=-1), 1, rtol=1e-3)


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_opens_planted(recipe, tmp_path):
    write_annotations(tmp_path)
    data = open_data(load_config(recipe, options_for(tmp_path)))
    model = data.config.model
    batch = collate([data.dataset("val")[i] for i in range(2)])
    assert batch.video.shape[1] == batch.text.shape[1] == model.layers
    assert (batch.video.shape[-1], batch.text.shape[-1]) == (model.video_width, model.text_width)


@pytest.mark.parametrize("recipe", [name for name in RECIPES if name.startswith("tacos")])
def test_recipes_train_on_planted_features_and_resume(recipe, tmp_path):
    write_annotations(tmp_path / "data")
    small = ["--model.width", "32", "--train.epochs", "1", "--train.batch_size", "8"]
    output = tmp_path / "run"
    options = ["--config", recipe, "--output", str(output), *options_for(tmp_path / "data")]
    assert train.main([*options, *small]) == 0
    assert train.main([*options, *small, "--resume"]) == 0
    assert "R1@0.7" in json.loads((output / "metrics.json").read_text())["report"]


def test_packed_planted_features_are_those_made_on_the_fly(tmp_path):
    write_annotations(tmp_path)
    config = load_config("qvhighlights_internvideo2", options_for(tmp_path))
    on_the_fly = open_data(config)
    store = convert(config, progress=False)
    packed = open_data(config)
    assert packed.source.path == store.path
    np.testing.assert_allclose(
        packed.source.video("v3").tokens, on_the_fly.source.video("v3").tokens, atol=0.01
    )
    harder = replace(config, planted=PlantedConfig(noise=9.0))
    assert isinstance(open_data(harder).source, PlantedFeatures), "packed with other settings"


@pytest.mark.parametrize(
    ("file", "clip_length"),
    [
        ("qvhighlights/highlight_val_release.jsonl", 2.0),
        ("charades/charades_test_release.jsonl", 1.0),
        ("tacos/tacos_val_release.jsonl", 2.0),
        ("activitynet/activitynet_val_release.jsonl", 2.0),
    ],
)
def test_real_annotations_are_planted_without_a_fault(shared_data, file, clip_length):
    annotations = read_annotations(shared_data / file, clip_length=clip_length)
    shapes = {"layers": 2, "video_width": 32, "text_width": 16, "clip_length": clip_length}
    source = PlantedFeatures(annotations, PlantedConfig(), LAYOUTS["sdst"], **shapes)
    for annotation in annotations[::50]:
        assert np.isfinite(source.video(annotation.vid).tokens).all()
        assert np.isfinite(source.query(annotation.qid).tokens).all()


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--data.features", "encode"], "data.planted makes up feature files"),
        (["--model.video_width", "0"], "model.video_width"),
        (["--planted.likeness", "2"], "planted.likeness is 2.0, expected 0 to 1"),
        (["--planted.layers", "0"], "planted.layers is 0, expected at least 1"),
    ],
)
def test_what_cannot_be_planted_is_refused(options, named, tmp_path):
    with pytest.raises(InputError, match=named):
        load_config("qvhighlights_internvideo2", [*options_for(tmp_path), *options])


def test_what_is_not_annotated_is_refused():
    with pytest.raises(InputError, match="video beach is not annotated"):
        plant(DOG).video("beach")
    with pytest.raises(InputError, match="query 7 is not annotated"):
        plant(DOG).query(7)
