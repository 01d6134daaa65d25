"""The folder of a run: begun, resumed, locked, refused."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from sdst.config import load_config, save_config
from sdst.errors import InputError
from sdst.files.sealed import seal
from sdst.model import SDST
from sdst.pretrained.folder import features_of_run, load_checkpoint
from sdst.pretrained.unchanged import check_source
from sdst.training.run_folder import Progress, RunFolder


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "run"


def begin(output: Path, *options: str) -> RunFolder:
    with closing(RunFolder(output)) as folder:
        folder.begin(load_config("demo", options))
    return folder


@pytest.mark.parametrize("left", ["model", "checkpoints", "features.json"])
def test_whatever_a_run_has_left_is_kept_under_another_name(output: Path, left: str) -> None:
    folder = begin(output)
    if left == "features.json":
        folder.settle(load_config("demo"), {"fingerprint": "0"})
    else:
        (output / left).mkdir()
    (output / "metrics.json").write_text("{}")
    begin(output)
    names = {path.name for path in output.with_name("run.1").iterdir()}
    assert names - {"config.json"} == {"config.yaml", "metrics.json", left}
    assert [path.name for path in output.iterdir()] == ["config.yaml"]


def test_a_start_that_failed_at_once_leaves_nothing_to_keep(output: Path) -> None:
    begin(output, "--train.lr", "1").settle(load_config("demo"), {})
    (output / "features.json").unlink()  # what was to be written next
    begin(output, "--train.lr", "2")
    assert load_config(output / "config.yaml").train.lr == 2
    assert not output.with_name("run.1").exists()


@pytest.mark.parametrize(
    "files",
    [
        {"config.yaml": "name: my project\n"},
        {"config.yaml": "train:\n  lr: 0.1  # tuned for a week\n"},
        {"config.yaml": "not: [yaml", "main.py": "years of work"},
        {"thesis.tex": "years of work"},
    ],
)
def test_a_folder_that_is_no_run_is_left_as_it_is(output: Path, files: dict[str, str]) -> None:
    output.mkdir()
    for name, text in files.items():
        (output / name).write_text(text)
    with pytest.raises(InputError, match="not a training run"):
        begin(output)
    assert {path.name: path.read_text() for path in output.iterdir()} == files


def test_a_file_is_no_folder_of_a_run(output: Path) -> None:
    output.write_text("notes")
    with pytest.raises(InputError, match="not a training run"):
        begin(output)
    assert output.read_text() == "notes"


def test_a_run_without_its_checkpoints_is_not_started_over_by_resuming(output: Path) -> None:
    folder = begin(output)
    for epoch in (1, 2):
        folder.log_metrics({"epoch": epoch})
    with pytest.raises(InputError, match="nothing to resume from"):
        folder.resume(load_config("demo"))


def test_what_a_run_decides_by_itself_is_no_other_configuration(output: Path) -> None:
    recipe = "qvhighlights_internvideo2"
    folder = RunFolder(output)
    folder.begin(load_config(recipe))
    save_config(load_config(recipe, ["--predict.snap", "0.15"]), output / "config.yaml")
    folder.check_config(load_config(recipe))
    with pytest.raises(InputError, match=r"predict\.snap was 0\.15, now 0\.3"):
        folder.check_config(load_config(recipe, ["--predict.snap", "0.3"]))


def test_reading_where_a_run_stood_changes_nothing(output: Path) -> None:
    """Every process of a run reads it."""
    folder = begin(output)
    for epoch in (1, 2):
        folder.log_metrics({"epoch": epoch})
    folder.save_state(Progress(epoch=1), lambda state: None)
    assert folder.load_progress(folder.last_state()) == Progress(epoch=1)
    assert [record["epoch"] for record in folder.read_metrics()] == [1, 2]


def test_nothing_is_left_in_a_folder_below_a_file(output: Path) -> None:
    output.write_text("notes")
    with pytest.raises(InputError, match="run is no folder that can be written to"):
        RunFolder(output / "inner").check_free()


def test_looking_whether_a_folder_is_free_changes_nothing(output: Path) -> None:
    begin(output)
    (output / "model").mkdir()
    RunFolder(output).check_free()
    RunFolder(output.with_name("other")).check_free()
    assert [path.name for path in output.parent.iterdir()] == ["run"]


def test_a_run_that_began_elsewhere_in_the_meantime_is_refused(output: Path) -> None:
    config = load_config("demo")
    with closing(RunFolder(output)) as first, closing(RunFolder(output)) as second:
        for folder in (first, second):
            folder.check_free()
        first.begin(config)
        with pytest.raises(InputError, match="another run is under way"):
            second.begin(config)


def test_a_run_keeps_others_out_of_the_folder_that_it_will_take(output: Path) -> None:
    begin(output)
    with closing(RunFolder(output)) as first, closing(RunFolder(output)) as second:
        first.check_free()
        with pytest.raises(InputError, match="another run is under way"):
            second.check_free()


@pytest.mark.parametrize("start", [RunFolder.begin, RunFolder.resume])
def test_a_folder_with_a_run_under_way_is_refused(output: Path, start: Callable) -> None:
    config = load_config("demo")
    with closing(RunFolder(output)) as first, closing(RunFolder(output)) as second:
        first.begin(config)
        with pytest.raises(InputError, match="another run is under way"):
            start(second, config)
        first.close()
        start(second, config)


def test_a_forked_process_does_not_keep_other_runs_out(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.begin(load_config("demo"))
    context = multiprocessing.get_context("fork")
    ready, stop = context.Event(), context.Event()
    loader = context.Process(target=lambda: (ready.set(), stop.wait(60)))
    loader.start()
    assert ready.wait(60)
    folder.close()  # as a killed process does
    RunFolder(tmp_path / "run").begin(load_config("demo"))
    stop.set()
    loader.join()


@pytest.mark.parametrize(("key", "value"), [("clip_length", 2.0), ("frames_per_clip", 3)])
def test_a_config_that_no_longer_fits_the_features_is_refused(
    output: Path, key: str, value: float
) -> None:
    config = load_config("demo")
    with closing(RunFolder(output)) as folder:
        folder.begin(config)
        trained = {"fingerprint": "f", "clip_length": 1.0, "frames_per_clip": 1}
        folder.settle(config, trained)
        folder.save_model(SDST(config.model))
    load_checkpoint(output)
    with pytest.raises(InputError, match=f"data.{key} is {value}, but it was trained on"):
        load_checkpoint(output, [f"--data.{key}", str(value)])


def test_an_edited_config_is_used_and_reported(output: Path, caplog) -> None:
    config = load_config("demo")
    with closing(RunFolder(output)) as folder:
        folder.begin(config)
        folder.settle(config, {"clip_length": 1.0})
        folder.save_model(SDST(config.model))
    load_checkpoint(output, ["--predict.nms", "hard"])
    assert not caplog.records
    file = output / "config.yaml"
    file.write_text(file.read_text().replace("nms: none", "nms: linear"))
    assert load_checkpoint(output)[0].config.predict.nms == "linear"
    [record] = caplog.records
    assert "config.yaml: not as training wrote it (predict.nms was 'none', now 'linear')" in (
        record.getMessage()
    )


@pytest.mark.parametrize("name", ["model", "checkpoints", "metrics.jsonl", "model/config.json"])
def test_a_run_with_links_is_not_resumed(output: Path, tmp_path: Path, name: str) -> None:
    config = load_config("demo")
    with closing(RunFolder(output)) as folder:
        folder.begin(config)
        folder.settle(config, {})
        folder.save_model(SDST(config.model))
        path, elsewhere = output / name, tmp_path / "precious"
        if path.exists():
            path.rename(elsewhere)
        path.symlink_to(elsewhere)
        with pytest.raises(InputError, match=f"{name} is a symbolic link"):
            folder.resume(config)


def test_metrics_are_not_written_through_a_link(output: Path, tmp_path: Path) -> None:
    folder = begin(output)
    folder.metrics_log.symlink_to(tmp_path / "precious")
    with pytest.raises(InputError, match=r"metrics\.jsonl: is a symbolic link"):
        folder.log_metrics({"epoch": 1})
    assert not (tmp_path / "precious").exists()


def test_other_features_than_those_of_the_training_are_refused(output: Path) -> None:
    folder = begin(output)
    folder.settle(load_config("demo"), {"fingerprint": "f", "backbone": "ViT", "queries": "1"})
    trained = features_of_run(output)
    check_source(output, trained, {"fingerprint": "f", "backbone": "moved", "queries": "2"})
    with pytest.raises(InputError, match="fingerprint was 'f', now 'g'"):
        check_source(output, trained, {"fingerprint": "g"})


@pytest.mark.parametrize(
    "progress", [{"epochs": 1}, {"epoch": "1"}, {"epoch": None}, {"best": [1]}, {"step": {}}]
)
def test_a_strangers_progress_is_numbers_or_refused(output: Path, progress: dict) -> None:
    folder = begin(output)
    folder.save_state(Progress(epoch=1), lambda state: None)
    state = folder.last_state()
    (state / "progress.json").write_text(seal(progress))
    with pytest.raises(InputError, match=r"progress\.json: expected numbers of epoch"):
        folder.load_progress(state)


@pytest.mark.parametrize(
    "line",
    ['{"epoch": "1"}', '{"epoch": 1, "val": {"mAP": []}}', '{"epoch": 1, "val": 2}', "[" * 9999],
)
def test_a_strangers_metrics_are_numbers_or_refused(output: Path, line: str) -> None:
    folder = begin(output)
    folder.metrics_log.write_text(f'{{"epoch": 1}}\n{line}\n')
    with pytest.raises(InputError, match=r"metrics\.jsonl:2: "):
        folder.read_metrics()


def test_damaged_weights_are_refused(output: Path) -> None:
    config = load_config("demo")
    with closing(RunFolder(output)) as folder:
        folder.begin(config)
        folder.settle(config, {})
        folder.save_model(SDST(config.model))
    weights = output / "model" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1000:] = bytes(1000)
    weights.write_bytes(content)
    with pytest.raises(InputError, match=r"model\.safetensors: damaged"):
        load_checkpoint(output)


def test_a_line_of_metrics_that_was_being_written_is_forgotten(output: Path) -> None:
    with closing(RunFolder(output)) as folder:
        folder.begin(load_config("demo"))
        folder.log_metrics({"epoch": 1})
        with folder.metrics_log.open("a") as file:
            file.write('{"epoch": 2, "lo')
        assert folder.read_metrics() == [{"epoch": 1}]
