"""Harder kinds of planted features: what separates a moment from its decoys, and what does not."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sdst.config import load_config
from sdst.config.files import packaged_configs
from sdst.data.annotations import Annotation, read_annotations
from sdst.data.batches import collate
from sdst.data.feature_files import LAYOUTS
from sdst.data.planted.features import MEANINGS, PlantedConfig, PlantedFeatures
from sdst.data.planted.maps import Binding, Phases, TokenMap, even, odd
from sdst.data.planted.timing import halves, runs
from sdst.errors import InputError
from sdst.sources.dataset import open_data
from sdst.sources.files import files_identity
from tests.layouts import write_annotations

CLIP_LENGTH = 2.0
CLIPS = 30
DOG = Annotation(1, "a dog jumps", "park", CLIPS * CLIP_LENGTH, windows=((8, 16),))  # clips 4 to 7
CAT = Annotation(2, "the cat sleeps", "room", CLIPS * CLIP_LENGTH, windows=((0, 8),))
PLAIN = PlantedConfig(smear=0, noise=0, distractors=0, layers=1)
ORDER, BINDING = replace(PLAIN, order=True), replace(PLAIN, binding=True)
ALL = {"planted.order": "true", "planted.binding": "true", "planted.nonlinear": "0.5"}
ALL_OPTIONS = [part for key, value in ALL.items() for part in (f"--{key}", value)]
RECIPES = [name for name in packaged_configs() if load_config(name).data.features != "encode"]


def options_for(root: Path) -> list[str]:
    files = json.dumps({"train": "train.jsonl", "val": "val.jsonl"})
    return ["--data.root", str(root), "--data.planted", "true", "--data.annotations", files]


def draw(*key: object, shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(list(repr(key).encode())).standard_normal(shape, np.float32)


def plant(config: PlantedConfig, *annotations: Annotation, width: int = 512) -> PlantedFeatures:
    shapes = {"layers": 2, "video_width": width, "text_width": 24, "clip_length": CLIP_LENGTH}
    return PlantedFeatures(annotations or (DOG, CAT), config, LAYOUTS["sdst"], **shapes)


def shown(config: PlantedConfig, annotation: Annotation = DOG) -> np.ndarray:
    """[L, MEANINGS], what the clips of a video show in the last layer, read off its tokens."""
    annotations = annotation, CAT
    bare = replace(annotation, windows=None)
    source = plant(config, *annotations)
    tokens = source.video(annotation.vid).tokens - plant(config, bare, CAT).video("park").tokens
    return tokens[-1, :, 0] @ np.linalg.pinv(source.to_video.linear)


def pieces(content: np.ndarray) -> list[np.ndarray]:
    """The clips of every moment and decoy, in time."""
    return [content[start:end] for start, end in runs(np.linalg.norm(content, axis=1) - 1e-3)]


def moment_and_decoys(config: PlantedConfig) -> tuple[np.ndarray, list[np.ndarray]]:
    content = shown(config)
    moment = content[4:8]
    return moment, [r for r in pieces(content) if not np.array_equal(r, moment)]


def maps(hidden) -> TokenMap:
    return TokenMap.drawn(draw, "map", (MEANINGS, 256), hidden, 1.0)


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def close(found: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_allclose(found, expected, atol=1e-3)


@pytest.fixture
def meaning() -> np.ndarray:
    return plant(PLAIN).sentence(1)


def test_features_without_kinds_are_those_of_versions_that_had_none():
    source = plant(PlantedConfig(distractors=2), replace(DOG, duration=24.0), width=48)
    video = source.video("park").tokens[1, :, 0]
    close(video[5, :3], [-1.9546307, -0.96397406, 0.8688066])
    close(video[1, :3], [-6.885984, -2.1876745, 0.3161599])
    close(source.query(1).tokens[0, 2, :3], [-0.10752881, 0.31399068, 1.9557261])


def test_a_store_packed_without_kinds_stays_valid():
    names = "signal noise layers smear distractors likeness seed"
    assert list(PlantedConfig().identity()) == names.split()


def test_a_store_is_of_the_kinds_that_it_was_packed_with(tmp_path):
    write_annotations(tmp_path)
    planted = [
        files_identity(load_config("qvhighlights_internvideo2", [*options_for(tmp_path), *more]))
        for more in ([], ["--planted.order", "true"], ["--planted.nonlinear", "0.5"], ALL_OPTIONS)
    ]
    assert max(Counter(map(repr, planted)).values()) == 1


def test_the_halves_of_a_moment_share_its_middle_clip():
    first, second = halves(np.array([0, 1, 1, 1, 0, 0.5, 0.5, 0]))
    np.testing.assert_array_equal(first, [0, 1, 0.5, 0, 0, 0.5, 0, 0])
    np.testing.assert_array_equal(second, [0, 0, 0.5, 1, 0, 0, 0.5, 0])


def test_phases_are_orthogonal_and_as_long_as_the_meaning(meaning):
    first, second = Phases.drawn(draw, MEANINGS)(meaning)
    assert first @ second == pytest.approx(0, abs=1e-4)
    assert np.linalg.norm(first) == pytest.approx(1, rel=1e-3)
    assert np.linalg.norm(second) == pytest.approx(1, rel=1e-3)


def test_both_phases_are_as_like_the_meaning(meaning):
    first, second = Phases.drawn(draw, MEANINGS)(meaning)
    assert cosine(first, meaning) == pytest.approx(np.sqrt(0.5), abs=1e-3)
    assert cosine(second, meaning) == pytest.approx(np.sqrt(0.5), abs=1e-3)


def test_a_moment_goes_from_its_first_phase_to_its_second(meaning):
    content, phases = shown(ORDER), plant(ORDER).phases(meaning)
    close(content[4:8], np.stack([phases[0], phases[0], phases[1], phases[1]]))


def test_a_decoy_of_order_shows_the_moment_backwards():
    moment, decoys = moment_and_decoys(ORDER)
    assert len(decoys) == 3
    for decoy in decoys:
        close(decoy, moment[::-1])


def test_a_decoy_is_as_strong_as_its_moment_clip_by_clip():
    ratings = ((1, 1, 1), (2, 2, 2), (3, 3, 3), (4, 4, 4))
    content = shown(ORDER, replace(DOG, clip_ids=(4, 5, 6, 7), saliency=ratings))
    moment = content[4:8]
    decoys = [r for r in pieces(content) if not np.array_equal(r, moment)]
    for decoy in decoys:
        close(decoy, moment[::-1])


def test_exchanged_properties_keep_the_sum_of_attributes():
    bind, (one, other) = Binding.drawn(draw, MEANINGS), draw("meanings", shape=(2, MEANINGS))
    own = bind.linear(one, one) + bind.linear(other, other)
    close(bind.linear(one, other) + bind.linear(other, one), own)


def test_what_is_bound_differs_from_what_is_bound_otherwise():
    bind, meanings = Binding.drawn(draw, MEANINGS), draw("meanings", shape=(200, 2, MEANINGS))
    cosines = [cosine(bind.bound(m, m), bind.bound(m, n)) for m, n in meanings]
    assert np.mean(cosines) == pytest.approx(0, abs=0.05)


def test_what_is_bound_is_as_long_as_a_meaning():
    bind, meanings = Binding.drawn(draw, MEANINGS), draw("meanings", shape=(200, MEANINGS))
    lengths = [np.linalg.norm(bind.bound(m, m)) for m in meanings]
    assert np.mean(lengths) == pytest.approx(1, abs=0.05)


def test_a_moment_shows_an_object_of_its_sentence_and_one_of_another(meaning):
    source = plant(BINDING)
    other = source.sentence(2)
    expected = source.binding(meaning, meaning) + source.binding(other, other)
    close(shown(BINDING)[4:8], np.stack([expected] * 4))


def test_a_decoy_of_binding_shows_their_properties_exchanged(meaning):
    source = plant(BINDING)
    other = source.sentence(2)
    exchanged = source.binding(meaning, other) + source.binding(other, meaning)
    _, decoys = moment_and_decoys(BINDING)
    assert len(decoys) == 3
    for decoy in decoys:
        close(decoy, np.stack([exchanged] * 4))


def test_of_both_kinds_each_decoy_has_one_fault(meaning):
    both = replace(ORDER, binding=True, decoys=2)
    source, (moment, decoys) = plant(both), moment_and_decoys(both)
    other = source.sentence(2)
    exchanged = source.binding(meaning, other) + source.binding(other, meaning)
    first, second = source.phases(exchanged)
    expected = moment[::-1], np.stack([first, first, second, second])
    for found in expected:
        assert sum(np.allclose(decoy, found, atol=1e-3) for decoy in decoys) == 1


def test_decoys_keep_apart_from_moments_and_from_one_another():
    edges = runs(np.linalg.norm(shown(replace(ORDER, decoys=9)), axis=1) - 1e-3)
    assert (edges[1:, 0] - edges[:-1, 1]).min() >= 2


def test_there_are_no_decoys_where_there_is_no_room():
    whole = replace(DOG, windows=((0, CLIPS * CLIP_LENGTH),))
    without = replace(BINDING, decoys=0)
    np.testing.assert_array_equal(shown(BINDING, whole), shown(without, whole))


@pytest.mark.parametrize("kind", [ORDER, BINDING])
def test_a_distractor_is_no_decoy(kind, meaning):
    content = shown(replace(kind, decoys=0, distractors=1, likeness=0.0))
    moment, distractor = content[4:8], [r for r in pieces(content) if len(r) == 4]
    assert len(distractor) == 2
    likeness = [run.sum(axis=0) @ meaning for run in distractor]
    assert min(likeness) < 0.5 * moment.sum(axis=0) @ meaning


@pytest.mark.parametrize("hidden", [even, odd])
@pytest.mark.parametrize("nonlinear", [0.0, 0.5, 1.0])
def test_tokens_vary_as_much_whatever_is_nonlinear(hidden, nonlinear):
    tokens = TokenMap.drawn(draw, "map", (MEANINGS, 256), hidden, nonlinear)
    meanings = draw("meanings", shape=(500, MEANINGS)) / np.sqrt(MEANINGS, dtype=np.float32)
    assert tokens(meanings).var() == pytest.approx(1, abs=0.1)


def test_a_video_shows_a_meaning_and_its_negative_alike():
    tokens, meanings = maps(even), draw("meanings", shape=(5, MEANINGS))
    close(tokens(-meanings), tokens(meanings))


def test_a_text_shows_a_meaning_and_its_negative_opposite():
    tokens, meanings = maps(odd), draw("meanings", shape=(5, MEANINGS))
    close(tokens(-meanings), -tokens(meanings))


def test_no_linear_readout_of_a_nonlinear_video_is_like_the_meaning():
    meanings = draw("meanings", shape=(4000, MEANINGS))
    tokens = maps(even)(meanings)
    weights = np.linalg.lstsq(tokens[:3000], meanings[:3000], rcond=None)[0]
    read = tokens[3000:] @ weights
    assert np.corrcoef(read.ravel(), meanings[3000:].ravel())[0, 1] == pytest.approx(0, abs=0.03)


def test_nonlinear_features_show_moments_in_their_clips_alone():
    config = replace(PLAIN, nonlinear=1.0)
    with_windows = plant(config).video("park").tokens
    without = plant(config, replace(DOG, windows=None), CAT).video("park").tokens
    found = np.abs(with_windows - without).max(axis=(2, 3)) > 1e-3
    expected = np.zeros((2, CLIPS), bool)
    expected[1, 4:8] = True
    np.testing.assert_array_equal(found, expected)


def test_hard_features_do_not_depend_on_what_was_asked_for_before():
    hard = PlantedConfig(order=True, binding=True, nonlinear=0.5)
    first, second = plant(hard), plant(hard)
    first.video("room"), first.query(2)
    np.testing.assert_array_equal(first.video("park").tokens, second.video("park").tokens)
    np.testing.assert_array_equal(first.query(1).tokens, second.query(1).tokens)


def test_a_lone_query_is_its_own_companion():
    assert np.isfinite(plant(BINDING, DOG).video("park").tokens).all()


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_opens_with_all_kinds(recipe, tmp_path):
    write_annotations(tmp_path)
    data = open_data(load_config(recipe, [*options_for(tmp_path), *ALL_OPTIONS]))
    batch = collate([data.dataset("val")[0]])
    assert batch.video.isfinite().all() and batch.text.isfinite().all()


@pytest.mark.parametrize(
    "file",
    [
        "qvhighlights/highlight_val_release.jsonl",
        "charades/charades_test_release.jsonl",
        "tacos/tacos_val_release.jsonl",
    ],
)
def test_all_kinds_are_planted_in_real_annotations(shared_data, file):
    annotations = read_annotations(shared_data / file, clip_length=CLIP_LENGTH)
    hard = PlantedConfig(order=True, binding=True, nonlinear=1.0)
    source = plant(hard, *annotations, width=32)
    for annotation in annotations[:: len(annotations) // 4]:
        assert np.isfinite(source.video(annotation.vid).tokens).all()


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--planted.nonlinear", "1.5"], "planted.nonlinear is 1.5, expected 0 to 1"),
        (["--planted.decoys", "-1"], "planted.decoys is -1, expected at least 0"),
    ],
)
def test_what_no_kind_can_be_is_refused(options, named, tmp_path):
    with pytest.raises(InputError, match=named):
        load_config("qvhighlights_internvideo2", [*options_for(tmp_path), *options])
