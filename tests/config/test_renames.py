"""Earlier names of options and keys still work, and say what they are called today."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from sdst import convert, extract
from sdst.config import load_config, renames
from sdst.config.renames import KEYS, OPTIONS, VALUES, rename_options
from sdst.errors import InputError
from sdst.pretrained.folder import load_checkpoint

# A value of every such key that is not its default, and what it is called today.
SET = {
    "data.store": ("int8", "int8"),
    "train.schedule": ("cosine", "cosine"),
    "predict.context": ("video", "video"),
    "train.precision": ("no", "fp32"),
    "train.compile": ("reduce-overhead", "default"),
}


@pytest.fixture(autouse=True)
def first_use() -> None:
    renames._warn.cache_clear()


def value_of(config: object, key: str) -> object:
    for part in key.split("."):
        config = getattr(config, part)
    return config


def test_every_earlier_name_is_tried_here() -> None:
    assert SET.keys() == {*KEYS, *VALUES}


@pytest.mark.parametrize("key", SET)
def test_a_file_of_an_earlier_name_loads(
    key: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    given, expected = SET[key]
    section, name = key.split(".")
    file = tmp_path / "old.yaml"
    file.write_text(yaml.safe_dump({"include": ["demo"], section: {name: given}}))
    for _ in range(2):
        assert value_of(load_config(file), KEYS.get(key, key)) == expected
    [line] = caplog.messages
    assert key in line and KEYS.get(key, expected) in line


@pytest.mark.parametrize("key", SET)
@pytest.mark.parametrize("joined", [True, False])
def test_an_option_of_an_earlier_name_is_taken(
    key: str, joined: bool, caplog: pytest.LogCaptureFixture
) -> None:
    given, expected = SET[key]
    option = [f"--{key}={given}"] if joined else [f"--{key}", given]
    assert value_of(load_config("demo", option), KEYS.get(key, key)) == expected
    [line] = caplog.messages
    assert key in line and KEYS.get(key, expected) in line


@pytest.mark.parametrize("key", KEYS)
def test_both_names_in_one_file_are_refused(key: str, tmp_path: Path) -> None:
    section, old = key.split(".")
    new = KEYS[key].partition(".")[2]
    given, _ = SET[key]
    file = tmp_path / "both.yaml"
    file.write_text(yaml.safe_dump({section: {old: given, new: given}}))
    with pytest.raises(InputError, match=f"{key} is an old name of {KEYS[key]}"):
        load_config(file)


def test_an_included_earlier_name_is_overridden_by_the_new_one(tmp_path: Path) -> None:
    (tmp_path / "old.yaml").write_text("train: {schedule: step}")
    (tmp_path / "new.yaml").write_text("include: [old.yaml]\ntrain: {lr_schedule: cosine}")
    assert load_config(tmp_path / "new.yaml").train.lr_schedule == "cosine"


@pytest.mark.parametrize("old", OPTIONS)
@pytest.mark.parametrize("command", [convert, extract])
def test_a_commands_earlier_options_are_taken(command, old: str) -> None:
    for arguments in ([old, "int8"], [f"{old}=int8"]):
        options = command.make_parser().parse_args(rename_options(arguments))
        assert options.store_dtype == "int8"


def test_names_of_today_are_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    arguments = [
        "--data.store_dtype",
        "int8",
        "--train.precision=bf16",
        "--videos",
        "no",
        "--dtypes",
    ]
    assert rename_options(arguments) == arguments
    assert not caplog.messages


def test_a_checkpoint_of_earlier_names_loads(
    untrained: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    expected, _ = load_checkpoint(untrained)
    folder = tmp_path / "run"
    folder.mkdir()
    for path in untrained.iterdir():
        (folder / path.name).symlink_to(path)
    content = yaml.safe_load((untrained / "config.yaml").read_text())
    for old, new in KEYS.items():
        section = content[old.split(".")[0]]
        section[old.split(".")[1]] = section.pop(new.split(".")[1])
    (folder / "config.yaml").unlink()
    (folder / "config.yaml").write_text(yaml.safe_dump(content))
    found, _ = load_checkpoint(folder)
    assert found == expected
    assert len(caplog.messages) == len(KEYS)


def test_a_key_that_says_nothing_any_more_is_read_over(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("include: [demo]\nmodel: {reach: null}\n")
    assert load_config(file) == load_config("demo")
    file.write_text("include: [demo]\nmodel: {reach: 3}\n")
    with pytest.raises(InputError, match=r"model\.reach"):
        load_config(file)
