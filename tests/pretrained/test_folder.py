"""A model's folder answers anywhere as its run did, and says what it is."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sdst import Grounder
from sdst.errors import InputError
from sdst.pretrained.folder import load_checkpoint
from tests.untrained import QUERIES, small_config, write_checkpoint


@pytest.fixture
def model(untrained: Path, tmp_path: Path) -> Path:
    """The model folder of a run, without the run."""
    return shutil.copytree(untrained / "model", tmp_path / "elsewhere" / "model")


def test_a_trained_model_answers_to_the_last_digit_in_another_process(
    tiny_checkpoint: Path, own_cache: Path, film: Path, tmp_path: Path
) -> None:
    grounder = Grounder(tiny_checkpoint, device="cpu")
    expected = [answer.windows for answer in grounder.ground(film, QUERIES)]
    grounder.save_pretrained(tmp_path / "mine")
    script = (
        "import sys, json; from sdst import Grounder; video, *queries = sys.argv[1:];"
        "answers = Grounder('mine', device='cpu').ground(video, queries);"
        "print(json.dumps([answer.windows for answer in answers]))"
    )
    command = [sys.executable, "-c", script, str(film), *QUERIES]
    path = os.pathsep.join(filter(None, (str(Path.cwd()), os.environ.get("PYTHONPATH"))))
    environment = os.environ | {"PYTHONPATH": path}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout) == expected


def test_a_run_and_its_model_folder_are_the_same_model(tiny_checkpoint: Path) -> None:
    of_run, weights = load_checkpoint(tiny_checkpoint)
    of_model, same = load_checkpoint(tiny_checkpoint / "model")
    assert of_model.config.predict == of_run.config.predict
    assert (of_model.features, of_model.results) == (of_run.features, of_run.results)
    assert of_model.config.data.root == "tiny"
    for name, value in weights.state_dict().items():
        assert value.equal(same.state_dict()[name])


def test_the_card_says_what_the_model_is(tiny_checkpoint: Path) -> None:
    card = (tiny_checkpoint / "model" / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: sdst\ntags:\n- video-temporal-grounding\n")
    for said in (
        "on the frozen backbone `demo`",
        "| dataset | tiny |",
        "one run, seed 0",
        "R1@0.5",
    ):
        assert said in card
    description, _ = load_checkpoint(tiny_checkpoint / "model")
    assert description.features["preprocessing"]["mean"] == [0.35, 0.35, 0.35]
    assert description.provenance is not None and description.results is not None
    assert description.provenance["command"] in card and description.provenance["date"] in card
    assert "host" not in description.provenance["machine"]


def test_figures_of_made_up_features_are_called_no_result(tmp_path: Path) -> None:
    from dataclasses import replace

    from sdst.pretrained.card import model_card
    from sdst.pretrained.description import Description

    config = small_config()
    planted = replace(config.data, dataset="custom", root="x", features="sdst", planted=True)
    card = model_card(Description(replace(config, data=planted), {}))
    assert "**No benchmark result:** planted features." in card
    assert 'backbone="WHAT MADE ITS FEATURES"' in card
    assert "Not stated by who trained it" in card


def test_a_card_of_the_demo_says_what_it_knows(model: Path) -> None:
    card = (model / "README.md").read_text()
    assert "knows these shapes, their colours and motions, and nothing else" in card
    assert "None yet: the training has not come to its end." in card


def test_a_licence_is_stated_where_it_is_given(model: Path, tmp_path: Path) -> None:
    Grounder(model).save_pretrained(tmp_path / "mine", license="cc-by-4.0")
    Grounder(tmp_path / "mine").save_pretrained(tmp_path / "again")
    assert "\nlicense: cc-by-4.0\n" in (tmp_path / "again" / "README.md").read_text()


def test_files_are_as_open_as_the_umask_lets_them(model: Path, tmp_path: Path) -> None:
    grounder = Grounder(model)
    before = os.umask(0o027)
    try:
        grounder.save_pretrained(tmp_path / "mine")
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "mine").iterdir()}
    names = {"README.md", "config.json", "grounding.json", "model.safetensors"}
    assert modes == dict.fromkeys(names, 0o640)
    assert (tmp_path / "mine").stat().st_mode & 0o777 == 0o750


def test_a_run_of_an_earlier_version_still_answers(tmp_path: Path) -> None:
    run = write_checkpoint(tmp_path / "run", small_config())
    for name in ("README.md", "grounding.json"):
        (run / "model" / name).unlink()
    assert Grounder(run).description.results is None
    with pytest.raises(InputError, match=rf"grounding\.json not found; .*: give {run}"):
        Grounder(run / "model")


@pytest.mark.parametrize("name", ["grounding.json", "config.json", "model.safetensors"])
def test_an_altered_file_is_refused(model: Path, name: str) -> None:
    content = bytearray((model / name).read_bytes())
    digit = max(content.rfind(digit, 0, len(content) - 60) for digit in b"0123456789")
    content[digit] ^= 1
    (model / name).write_bytes(content)
    with pytest.raises(InputError, match=rf"{name}: damaged"):
        Grounder(model)


def test_a_description_that_lacks_a_part_is_refused(model: Path) -> None:
    (model / "grounding.json").write_text('{"config": {}}')
    with pytest.raises(InputError, match=r"grounding\.json: features is no dict"):
        Grounder(model)
