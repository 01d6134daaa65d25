"""Runs that begin with the weights of another."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sdst.errors import InputError
from sdst.model import SDST, ModelConfig
from sdst.pretrained.folder import load_checkpoint
from sdst.train import main
from sdst.training.initial import other_features, start_from

CONFIG = ModelConfig(layers=3, video_width=16, text_width=12, width=32, queries=6, heads=2)


def saved(folder: Path, config: ModelConfig = CONFIG) -> SDST:
    torch.manual_seed(1)
    model = SDST(config)
    model.save_pretrained(folder)
    return model


def fresh(**changes: object) -> SDST:
    torch.manual_seed(2)
    return SDST(replace(CONFIG, **changes))


def test_equal_models_take_everything(tmp_path: Path) -> None:
    theirs, ours = saved(tmp_path), fresh()
    start = start_from(ours, str(tmp_path))
    weights = ours.state_dict()
    assert all(weights[name].equal(value) for name, value in theirs.state_dict().items())
    assert len(start.loaded) == len(weights)
    assert len(str(start).splitlines()) == 1


@pytest.mark.parametrize("queries", [4, 9])
def test_queries_are_taken_in_another_number(tmp_path: Path, queries: int) -> None:
    theirs, ours = saved(tmp_path), fresh(queries=queries)
    drawn = ours.state_dict()["queries.embedding"].clone()
    start_from(ours, str(tmp_path))
    both = min(queries, CONFIG.queries)
    taken = ours.state_dict()["queries.embedding"]
    assert taken[:both].equal(theirs.state_dict()["queries.embedding"][:both])
    assert taken[both:].equal(drawn[both:])


@pytest.mark.parametrize("layers", [2, 5])
def test_layers_are_counted_from_the_deepest(tmp_path: Path, layers: int) -> None:
    theirs = saved(tmp_path)
    with torch.no_grad():
        theirs.fusion.copy_(torch.tensor([1.0, 2.0, 3.0]))
    theirs.save_pretrained(tmp_path)
    ours = fresh(layers=layers)
    start_from(ours, str(tmp_path))
    both = min(layers, CONFIG.layers)
    assert ours.fusion[-both:].tolist() == [1.0, 2.0, 3.0][-both:]


def test_what_does_not_fit_is_left_and_named(tmp_path: Path) -> None:
    saved(tmp_path)
    ours = fresh(video_width=20, reads="saliency")
    drawn = {name: value.clone() for name, value in ours.state_dict().items()}
    start = start_from(ours, str(tmp_path))
    name = "visual_projection.2.weight"
    assert ours.state_dict()[name].equal(drawn[name])
    assert f"{name} 32 x 16 there, 32 x 20 here" in start.misfits
    assert start.lacking == ["mark.direction 32"]
    assert "32 x 16 there, 32 x 20 here" in str(start)


def test_a_model_of_another_width_is_refused(tmp_path: Path) -> None:
    saved(tmp_path)
    ours = SDST(ModelConfig(layers=2, video_width=9, text_width=7, width=64, heads=4, queries=3))
    with pytest.raises(InputError, match=r"none of its matrices.*model\.width"):
        start_from(ours, str(tmp_path))


def test_a_folder_without_weights_is_refused_before_anything_is_touched(
    tiny_options: list[str], tmp_path: Path
) -> None:
    output = ["--output", str(tmp_path / "run")]
    with pytest.raises(InputError, match=r"nowhere: no such folder"):
        main([*output, *tiny_options, "--train.init", str(tmp_path / "nowhere")])
    with pytest.raises(InputError, match=r"train\.init .*: model\.safetensors not found"):
        main([*output, *tiny_options, "--train.init", str(tmp_path)])
    assert not (tmp_path / "run").exists()


def test_damaged_weights_are_refused(tmp_path: Path) -> None:
    saved(tmp_path)
    file = tmp_path / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    file.write_bytes(content)
    with pytest.raises(InputError, match="damaged"):
        start_from(fresh(), str(tmp_path))


def test_training_starts_where_the_other_run_ended(
    tiny_options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    main(["--output", str(first), *tiny_options, "--train.epochs", "1"])
    init = ["--train.init", str(first), "--train.lr", "1e-12"]
    capsys.readouterr()
    main(["--output", str(second), *tiny_options, "--train.epochs", "1", *init])
    assert f"starting from {first}: " in capsys.readouterr().out
    states = [SDST.from_pretrained(str(run / "model")).state_dict() for run in (first, second)]
    for name, value in states[0].items():
        torch.testing.assert_close(states[1][name], value, rtol=0, atol=1e-6)


def test_features_of_another_backbone_are_said(tiny_options: list[str], tmp_path: Path) -> None:
    run = tmp_path / "run"
    main(["--output", str(run), *tiny_options, "--train.epochs", "1"])
    assert other_features(str(run), {"fingerprint": "x"})
    assert other_features(str(tmp_path), {"fingerprint": "x"}) is None  # which has none of them


def test_a_packaged_model_is_a_start_by_its_name() -> None:
    description, theirs = load_checkpoint("demo")
    ours = SDST(description.config.model)
    start_from(ours, "demo")
    assert all(ours.state_dict()[name].equal(value) for name, value in theirs.state_dict().items())
    assert other_features("demo", description.features) is None
    assert other_features("demo", {"fingerprint": "x"})
