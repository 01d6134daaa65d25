"""Configs: packaged ones load, overrides apply, every mistake is one line."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sdst.config import annotated, load_config, load_with_origins, save_config
from sdst.config.files import packaged_configs
from sdst.config.kinds import expected
from sdst.config.loading import config_keys
from sdst.errors import InputError


@pytest.mark.parametrize("name", packaged_configs())
def test_every_packaged_config_loads(name: str) -> None:
    assert load_config(name).train.batch_size > 0


def test_an_override_wins_over_the_file() -> None:
    assert load_config("demo", ["--model.width", "64"]).model.width == 64


def test_a_saved_config_loads_as_it_was(tmp_path: Path) -> None:
    config = load_config("demo", ["--model.schedule", "[4,2,1,1]", "--train.lr", "0.001"])
    save_config(config, tmp_path / "config.yaml")
    assert load_config(tmp_path / "config.yaml") == config


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (["--model.widht", "64"], "model.widht"),
        (["--model.width", "wide"], "model.width"),
        (["--model.attention", "magic"], "model.attention"),
        (["--model.width", "100"], "model.heads"),
        (["--train.epochs", "0"], "train.epochs"),
        (["--predict.stretch", "0"], "predict.stretch"),
        (["--predict.overlap", "150"], "predict.overlap"),
        (["--predict.overlap", "-1"], "predict.overlap"),
        (["--predict.nms_threshold", "-1"], "predict.nms_threshold"),
        (["--model.dropout", "1"], "model.dropout"),
        (["--model.pooled_tokens", "0"], "model.pooled_tokens"),
        (["--train.seed", "-1"], "train.seed"),
        (["--train.lr", "-1"], "train.lr"),
        (["--data.limit", "-5"], "data.limit"),
        (["--train.batch_size", "10", "--train.accumulation", "3"], "train.accumulation"),
        (["--data.features", "sdst"], "data.video_features"),
        (["--data.features", "clip"], "data.features"),
        (["--data.endpoints", "true"], "data.endpoints"),
        (["--data.last_layer", "true"], "data.last_layer"),
        (["--train.offsets_lr", "-1"], "train.offsets_lr"),
        (["--train.tracker", "aim"], "train.tracker"),
        (["--data.on_device", "true", "--train.workers", "2"], "train.workers"),
    ],
)
def test_a_wrong_override_is_one_line_that_names_it(overrides: list[str], named: str) -> None:
    with pytest.raises(InputError, match=named) as error:
        load_config("demo", overrides)
    assert str(error.value).startswith("command line: ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("train.batch_size", "soon", "a whole number"),
        ("train.epochs", "soon", "a whole number or auto"),
        ("train.lr", "[1]", "a number"),
        ("train.precision", "fp8", "auto, fp32, bf16 or fp16"),
        ("data.on_device", "3", "true, false or auto"),
        ("data.also", "3", "names with a number each"),
        ("data.video_features", "3", "a list of texts"),
        ("model.schedule", "[1, 'x']", "a list of whole numbers or null"),
    ],
)
def test_a_value_of_another_kind_says_which_one_is_expected(
    key: str, value: str, words: str
) -> None:
    with pytest.raises(InputError) as error:
        load_config("demo", [f"--{key}", value])
    assert str(error.value) == f"command line: {key} is {value}, expected {words}"


@pytest.mark.parametrize("key", config_keys())
def test_what_a_key_may_be_can_be_said(key: str) -> None:
    assert expected(key)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("model:\n  layerz: 4\n", "layerz"),
        ("modle:\n  layers: 4\n", "modle"),
        ("model: [1, 2\n", "config"),
        ("42\n", "config"),
        ("train:\n  lr: -1\n", "train.lr"),
    ],
)
def test_a_wrong_file_is_one_line_that_names_file_and_key(
    tmp_path: Path, text: str, named: str
) -> None:
    file = tmp_path / "wrong.yaml"
    file.write_text(text)
    with pytest.raises(InputError, match=named) as error:
        load_config(file)
    assert str(file) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        ("modle:\n  layers: 4\n", "no section 'modle'; did you mean model?"),
        ("model:\n  layerz: 4\n", "no key model.layerz; did you mean layers?"),
        ("model:\n  xyzzy: 4\n", "no key model.xyzzy"),
    ],
)
def test_a_key_that_there_is_not_names_the_closest(tmp_path: Path, text: str, advice: str) -> None:
    file = tmp_path / "wrong.yaml"
    file.write_text(text)
    with pytest.raises(InputError, match=re.escape(advice) + "$"):
        load_config(file)


def test_dictionaries_and_lists_are_overridden_in_parts() -> None:
    config = load_config("demo", ["--data.annotations.test", "t.jsonl"])
    assert config.data.annotations["test"] == "t.jsonl"


def test_an_unknown_name_lists_the_packaged_ones() -> None:
    with pytest.raises(InputError, match="qvhighlights_internvideo2"):
        load_config("qvhighlight")


def test_the_printed_config_says_where_values_come_from_and_loads_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("include: [charades_internvideo2]\ntrain: {lr: 1e-3}\n")
    overrides = ["--train.seed=3", "--data.root", "two\nlines: 3  # four", "--model.layers", "2"]
    config, origin = load_with_origins(tmp_path / "mine.yaml", overrides)
    assert origin["train.lr"] == str(tmp_path / "mine.yaml")
    assert origin["train.seed"] == origin["data.root"] == origin["model.layers"] == "command line"
    assert origin["data.dataset"] == "parts/charades.yaml"
    assert "planted.noise" not in origin
    text = annotated(config, origin)
    assert "  seed: 3  # command line\n" in text
    (tmp_path / "printed.yaml").write_text(text)
    assert load_config(tmp_path / "printed.yaml") == config


def test_includes_that_multiply_are_refused_at_once(tmp_path: Path) -> None:
    for level in range(9):
        (tmp_path / f"{level}.yaml").write_text(f"include: {[f'{level + 1}.yaml'] * 9}\n")
    (tmp_path / "9.yaml").write_text("train: {lr: 1e-3}\n")
    with pytest.raises(InputError, match="more than 100 in all"):
        load_config(tmp_path / "0.yaml")
