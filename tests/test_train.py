"""Training as a user meets it: what a run leaves, how it is repeated, killed and resumed."""

from __future__ import annotations

import json
import pickle
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from sdst import SDST
from sdst.config import load_config
from sdst.data.annotations import Annotation, read_annotations, write_annotations
from sdst.data.store.reader import FeatureStore
from sdst.errors import InputError
from sdst.evaluation import read_predictions
from sdst.grounding.predict import predict_split
from sdst.kernels import ImplementationError, use_implementation
from sdst.model.health import HEALTH, SparseHealth
from sdst.sources.dataset import open_data
from sdst.train import main, warn_of_little_training
from sdst.training import trainer
from sdst.training.loader import make_loader
from sdst.training.run_folder import RunFolder
from sdst.training.step import batch_loss

MODULE = [sys.executable, "-m", "sdst.train"]

# Without it, whose draws depend on process and pass, only the order of sums differs.
NO_DROPOUT = [
    part
    for key in ("dropout", "drop_path", "projection_dropout")
    for part in (f"--model.{key}", "0")
]


def weights(output: Path) -> dict[str, torch.Tensor]:
    return load_file(output / "model" / "model.safetensors")


def without_key_biases(found: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A bias of keys cancels in the softmax; Adam makes steps of its gradient's rounding errors."""
    kept = dict(found)
    for name, value in found.items():
        if name.endswith("query_key.bias"):
            kept[name] = value[: len(value) // 2]
        elif name.endswith("key_value.bias"):
            kept[name] = value[len(value) // 2 :]
    return kept


def assert_same_weights(a: Path, b: Path, **tolerance: float) -> None:
    found, expected = weights(a), weights(b)
    if tolerance:
        found, expected = without_key_biases(found), without_key_biases(expected)
    assert found.keys() == expected.keys()
    for name in expected:
        if tolerance:
            torch.testing.assert_close(found[name], expected[name], **tolerance)
        else:
            assert torch.equal(found[name], expected[name]), name


def linked(dataset: Path, root: Path) -> Path:
    """`dataset` by links, to give it other annotations."""
    root.mkdir()
    for path in dataset.iterdir():
        (root / path.name).symlink_to(path)
    return root


def rewrite(link: Path, annotations: list[Annotation]) -> None:
    """Put a file of `annotations` in the place of a link."""
    link.unlink()
    write_annotations(link, annotations)


def wait_for(condition, process: subprocess.Popen, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, "the run ended before it could be stopped"
        assert time.monotonic() < end, "timed out"
        time.sleep(0.01)


def test_a_run_leaves_what_the_readme_lists(tiny_checkpoint: Path) -> None:
    left = {path.name for path in tiny_checkpoint.iterdir()}
    expected = {
        "config.yaml",
        "config.json",
        "features.json",
        "metrics.json",
        "metrics.jsonl",
        "predictions.jsonl",
        "curves.png",
        "reliability.png",
    }
    assert expected | {"model", "checkpoints", "tensorboard"} <= left
    assert not any(name.startswith(".") for name in left)


def test_the_model_loads_and_the_predictions_are_valid(tiny_checkpoint: Path) -> None:
    assert SDST.from_pretrained(str(tiny_checkpoint / "model")).config.width == 32
    assert read_predictions(tiny_checkpoint / "predictions.jsonl")


def test_metrics_hold_the_tuner_and_the_zero_shot_baseline(tiny_checkpoint: Path) -> None:
    metrics = json.loads((tiny_checkpoint / "metrics.json").read_text())
    assert metrics["split"] == "test"
    for report in (metrics["report"], metrics["zero_shot"]):
        assert 0 <= report["brief"]["MR-full-mAP"] <= 100
    log = [json.loads(line) for line in (tiny_checkpoint / "metrics.jsonl").open()]
    assert [record["epoch"] for record in log] == [1, 2, 3]


def test_training_lowers_the_loss(tiny_checkpoint: Path) -> None:
    log = [json.loads(line) for line in (tiny_checkpoint / "metrics.jsonl").open()]
    assert log[-1]["losses"]["loss"] < log[0]["losses"]["loss"]


def test_every_validation_is_kept_with_the_health_of_the_sparse_stream(
    tiny_checkpoint: Path,
) -> None:
    log = [json.loads(line) for line in (tiny_checkpoint / "metrics.jsonl").open()]
    assert all(record["sparse_stream"].keys() == set(HEALTH) for record in log)
    assert not set(HEALTH) & log[0]["losses"].keys()


def test_a_sparse_stream_that_answers_nothing_is_reported_in_one_line(
    tiny_options: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    unlearned = ["--train.lr", "1e-9", "--train.warmup_steps", "1", "--model.queries", "1"]
    main(["--output", str(tmp_path / "run"), *tiny_options, *unlearned])
    assert capfd.readouterr().out.count("answer every sentence with the same window") == 1


def test_losses_are_of_every_step_though_a_graph_writes_them_to_the_same_memory(
    tiny_checkpoint: Path,
    tiny_options: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    memory = {}

    def replay(*arguments: object) -> tuple[torch.Tensor, dict[str, torch.Tensor], SparseHealth]:
        loss, terms, health = batch_loss(*arguments)
        for name, term in terms.items():
            memory.setdefault(name, torch.empty(())).copy_(term.detach())
        return loss, dict(memory), health

    monkeypatch.setattr("sdst.training.step.batch_loss", replay)
    main(["--output", str(tmp_path), *tiny_options])
    found, expected = (
        (folder / "metrics.jsonl").read_text() for folder in (tmp_path, tiny_checkpoint)
    )
    assert found == expected


def test_a_lone_process_asks_no_device_whether_to_stop(
    tiny_options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr("accelerate.Accelerator.check_trigger")
    assert main(["--output", str(tmp_path), *tiny_options, "--train.epochs", "1"]) == 0


def test_the_same_seed_gives_the_same_weights_bit_for_bit(
    tiny_checkpoint: Path, tiny_options: list[str], tmp_path: Path
) -> None:
    main(["--output", str(tmp_path / "again"), *tiny_options])
    assert_same_weights(tmp_path / "again", tiny_checkpoint)


def test_another_seed_gives_other_weights(
    tiny_checkpoint: Path, tiny_options: list[str], tmp_path: Path
) -> None:
    main(["--output", str(tmp_path), *tiny_options, "--train.seed", "1"])
    assert not torch.equal(weights(tmp_path)["fusion"], weights(tiny_checkpoint)["fusion"])


def test_features_are_encoded_once(
    tiny_checkpoint: Path, tiny_dataset: Path, tiny_options: list[str], tmp_path: Path
) -> None:
    before = {path: path.stat().st_mtime_ns for path in (tiny_dataset / "features").rglob("*")}
    main(["--output", str(tmp_path), *tiny_options, "--train.epochs", "1"])
    after = {path: path.stat().st_mtime_ns for path in (tiny_dataset / "features").rglob("*")}
    assert before == after != {}


class Elsewhere(torch.Tensor):
    """Like a GPU's in that numpy cannot see it; batches gathered from it are the model's."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        result = super().__torch_function__(func, types, args, kwargs)
        return result.as_subclass(torch.Tensor) if func is torch.Tensor.index_select else result

    def numpy(self, *_: object, **__: object) -> None:
        raise TypeError("can't convert cuda:0 device type tensor to numpy")

    __array__ = numpy

    def cpu(self) -> torch.Tensor:
        return self.as_subclass(torch.Tensor)


def test_features_in_a_devices_memory_give_the_same_run(
    tiny_checkpoint: Path,
    tiny_options: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def on_device(store: FeatureStore) -> FeatureStore:
        store = FeatureStore(store.path, torch.device("cpu"))
        store._maps = {name: values.as_subclass(Elsewhere) for name, values in store._maps.items()}
        return store

    monkeypatch.setattr("sdst.sources.dataset._hindrance", lambda store: None)
    monkeypatch.setattr("sdst.sources.dataset._on_device", on_device)
    main(["--output", str(tmp_path), *tiny_options, "--data.on_device", "true"])
    assert_same_weights(tmp_path, tiny_checkpoint)
    found, expected = (
        json.loads((folder / "metrics.json").read_text()) for folder in (tmp_path, tiny_checkpoint)
    )
    assert found["zero_shot"] == expected["zero_shot"]
    assert found["report"] == expected["report"]


@pytest.mark.slow
def test_killed_and_resumed_it_ends_with_the_weights_of_an_undisturbed_run(
    tiny_options: list[str], tmp_path: Path
) -> None:
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    options = [*tiny_options, "--train.epochs", "6"]
    process = subprocess.Popen([*MODULE, "--output", str(killed), *options])
    wait_for(lambda: list(killed.glob("checkpoints/epoch-*[2-5]")), process)
    process.kill()
    process.wait()
    assert not (killed / "metrics.json").exists()
    resumed = [*MODULE, "--output", str(killed), "--resume", *options]
    subprocess.run(resumed, check=True)
    subprocess.run([*MODULE, "--output", str(whole), *options], check=True)
    assert_same_weights(killed, whole)
    epochs = [json.loads(line)["epoch"] for line in (killed / "metrics.jsonl").open()]
    assert epochs == [1, 2, 3, 4, 5, 6]


class Planted:
    """A pickle that leaves a trace where it is read."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple:
        return Path.touch, (self.trace,)


def test_a_checkpoint_of_pickles_is_refused_and_not_read(
    tiny_checkpoint: Path, tiny_options: list[str], tmp_path: Path
) -> None:
    run, trace = tmp_path / "run", tmp_path / "trace"
    shutil.copytree(tiny_checkpoint, run)
    [state] = (run / "checkpoints").iterdir()
    (state / "state.safetensors").unlink()
    for name in ("custom_checkpoint_0.pkl", "optimizer.bin", "random_states_0.pkl"):
        (state / name).write_bytes(pickle.dumps(Planted(trace)))
    with pytest.raises(InputError, match="pickles of an earlier version"):
        main(["--output", str(run), "--resume", *tiny_options])
    assert not trace.exists()


@pytest.mark.slow
@pytest.mark.parametrize("asked", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_and_sigterm_stop_early_with_a_usable_checkpoint(
    asked: signal.Signals, tiny_options: list[str], tmp_path: Path
) -> None:
    options = [*tiny_options, "--train.epochs", "2000"]
    process = subprocess.Popen([*MODULE, "--output", str(tmp_path / "run"), *options])
    wait_for(lambda: (tmp_path / "run" / "metrics.jsonl").exists(), process)
    process.send_signal(asked)
    assert process.wait(timeout=120) == 130
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["interrupted"]
    assert SDST.from_pretrained(str(tmp_path / "run" / "model"))


@pytest.mark.slow
def test_two_processes_learn_what_one_learns_from_the_same_batches(
    tiny_options: list[str], tmp_path: Path
) -> None:
    options = [*tiny_options, *NO_DROPOUT]
    one, two = tmp_path / "one", tmp_path / "two"
    subprocess.run([*MODULE, "--output", str(one), *options], check=True)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"]
    command = [*launcher, "-m", "sdst.train", "--output", str(two), *options]
    subprocess.run(command, check=True)
    assert_same_weights(two, one, rtol=1e-3, atol=1e-5)
    assert len(read_predictions(two / "predictions.jsonl")) == len(
        read_predictions(one / "predictions.jsonl")
    )
    log = (two / "metrics.jsonl").read_text()
    with (two / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"epoch": 4}) + "\n")
    before = weights(two)
    subprocess.run([*command, "--resume"], check=True)
    assert (two / "metrics.jsonl").read_text() == log
    assert all(torch.equal(value, before[name]) for name, value in weights(two).items())


@pytest.mark.slow
def test_what_several_processes_refuse_is_reported_once(
    tiny_options: list[str], tmp_path: Path
) -> None:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"]
    options = ["--output", str(tmp_path / "run"), *tiny_options, "--data.limit", "5"]
    done = subprocess.run([*launcher, "-m", "sdst.train", *options], capture_output=True, text=True)
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and "train.batch_size 8" in lines[0]
    assert not (tmp_path / "run").exists()


def test_accumulation_changes_neither_steps_nor_what_they_learn(
    tiny_dataset: Path, tiny_options: list[str], tmp_path: Path
) -> None:
    """28 queries are 3 steps of 8, and 7 passes of 4, of which the last is too few for a step."""
    root = linked(tiny_dataset, tmp_path / "dataset")
    # A moment each, as the losses are means over the moments of a pass.
    single = [a for a in read_annotations(root / "train.jsonl") if len(a.windows) == 1]
    rewrite(root / "train.jsonl", single[:28])
    options = [*tiny_options, *NO_DROPOUT, "--data.root", str(root)]
    for name in ("contrast", "alignment"):  # which compare the samples of a pass
        options += [f"--loss.{name}", "0"]
    whole, split = tmp_path / "whole", tmp_path / "split"
    main(["--output", str(whole), *options])
    main(["--output", str(split), *options, "--train.accumulation", "2"])
    steps = [json.loads(line)["step"] for line in (split / "metrics.jsonl").open()]
    assert steps == [3, 6, 9]
    assert_same_weights(split, whole, rtol=1e-3, atol=1e-5)


def test_in_bf16_it_learns_and_answers_in_full_precision(
    tiny_options: list[str], tmp_path: Path
) -> None:
    options = ["--output", str(tmp_path / "run"), *tiny_options, "--train.precision", "bf16"]
    assert main(options) == 0
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    losses = [json.loads(line)["losses"]["loss"] for line in lines]
    assert losses[-1] < losses[0]
    records = predict_split(tmp_path / "run", "test").records
    assert read_predictions(tmp_path / "run" / "predictions.jsonl") == records
    # A process may train in one precision after the other.
    other = ["--output", str(tmp_path / "other"), *tiny_options, "--train.epochs", "1"]
    assert main([*other, "--train.precision", "fp32"]) == 0


def test_in_fp16_the_loss_is_scaled_and_the_scale_kept(
    tiny_options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a CPU, which training refuses to do in fp16, being slow at it."""
    monkeypatch.setattr("sdst.training.step.autocast_dtype", lambda precision: torch.float16)
    options = ["--output", str(tmp_path / "run"), *tiny_options]
    assert main(options) == 0
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    losses = [json.loads(line)["losses"]["loss"] for line in lines]
    assert losses[-1] < losses[0]
    config = load_config("demo", tiny_options)
    data = open_data(config)
    again = trainer.Trainer(
        data.config,
        data,
        RunFolder(tmp_path / "run"),
        trainer.make_accelerator(config, tmp_path / "run"),
    )
    started_with = again.stepper.scaler.state_dict()
    again.resume()
    assert again.stepper.scaler.state_dict() != started_with


def test_an_earlier_run_is_kept_under_another_name(
    tiny_options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    output = tmp_path / "run"
    for epochs in ("1", "2"):
        main(["--output", str(output), *tiny_options, "--train.epochs", epochs])
    kept = json.loads((tmp_path / "run.1" / "metrics.json").read_text())
    assert kept["epochs"] == 1
    assert "run.1" in capsys.readouterr().out


def test_the_table_begins_with_the_figures_of_the_protocol(
    tiny_options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    options = [*tiny_options, "--train.epochs", "1", "--data.protocol", "ego4d-nlq"]
    main(["--output", str(tmp_path), *options])
    lines = capsys.readouterr().out.splitlines()
    queries = len(read_predictions(tmp_path / "predictions.jsonl"))
    title = next(i for i, line in enumerate(lines) if line.startswith("Ego4D-NLQ"))
    assert f"{queries} queries" in lines[title]
    labels = [line.split()[0] for line in lines[title + 1 : title + 6]]
    assert labels == ["R1@0.3", "R1@0.5", "R5@0.3", "R5@0.5", "mIoU"]
    [epoch] = [line for line in lines if line.startswith("epoch")]
    assert [word for word in epoch.split() if "@" in word or word == "mIoU"] == labels


def test_a_folder_that_is_no_run_is_left_alone(tiny_options: list[str], tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(InputError, match="not a training run"):
        main(["--output", str(tmp_path), *tiny_options])
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (
            ["--data.limit", "5", "--train.accumulation", "2"],
            "train.batch_size 8 is more than the 5",
        ),
        (["--train.select_by", "mAP"], "train.select_by"),
        (["--model.layers", "40"], "layers"),
    ],
)
def test_a_refused_run_leaves_the_finished_one_in_its_place(
    options: list[str], named: str, tiny_options: list[str], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    main(["--output", str(run), *tiny_options, "--train.epochs", "1"])
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    with pytest.raises(InputError, match=named):
        main(["--output", str(run), *tiny_options, *options])
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


@pytest.mark.skipif(torch.cuda.is_available(), reason="of a machine without a GPU")
def test_a_kernel_that_does_not_fit_is_reported_before_the_run_has_a_folder(
    tiny_options: list[str], tmp_path: Path
) -> None:
    with use_implementation("cuda"), pytest.raises(ImplementationError, match="cuda"):
        main(["--output", str(tmp_path / "run"), *tiny_options])
    assert not (tmp_path / "run").exists()


def test_resuming_under_another_configuration_names_the_difference(
    tiny_checkpoint: Path, tiny_options: list[str]
) -> None:
    with pytest.raises(InputError, match=r"train\.lr was .*, now 0\.1"):
        main(["--output", str(tiny_checkpoint), "--resume", *tiny_options, "--train.lr", "0.1"])


def test_resuming_where_nothing_is_says_so(tiny_options: list[str], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no training run"):
        main(["--output", str(tmp_path / "none"), "--resume", *tiny_options])


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--train.accumulation", "3"], "train.accumulation 3"),
        (["--train.select_by", "mAP"], "train.select_by"),
        (["--model.video_width", "768"], "768"),
        (["--data.root", "nowhere"], "nowhere"),
        (["--config", "nothing"], "nothing"),
    ],
)
def test_a_wrong_option_is_one_line_that_names_it(
    options: list[str], named: str, tiny_options: list[str], tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=named) as error:
        main(["--output", str(tmp_path / "run"), *tiny_options, *options])
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("split", ["val", "test"])
def test_annotations_that_cannot_be_scored_are_reported_before_training(
    split: str, tiny_dataset: Path, tiny_options: list[str], tmp_path: Path
) -> None:
    """Some queries of the split are rated, others are not."""
    root = linked(tiny_dataset, tmp_path / "dataset")
    first, *others = read_annotations(root / f"{split}.jsonl")
    rewrite(root / f"{split}.jsonl", [replace(first, clip_ids=None, saliency=None), *others])
    with pytest.raises(InputError, match=f"^{split}: .*qid {first.qid} has no saliency_scores"):
        main(["--output", str(tmp_path / "run"), *tiny_options, "--data.root", str(root)])
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


@pytest.mark.parametrize(
    "options",
    [
        ["--train.lr", "1e6"],  # the next step finds weights that are not finite
        ["--train.lr", "1e12", "--data.limit", "8"],  # there is none: the validation does
        ["--loss.l1", "1e39"],
    ],
)
def test_training_that_diverges_is_one_line(
    options: list[str], tiny_options: list[str], tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=r"training diverged.* lower train\.lr") as error:
        main(["--output", str(tmp_path / "run"), *tiny_options, *options])
    assert "\n" not in str(error.value)


def test_the_command_exits_with_2_and_one_line(tmp_path: Path) -> None:
    done = subprocess.run([*MODULE, "--config", "nothing"], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("error: config 'nothing'")
    assert done.stderr.count("\n") == 1


def test_a_missing_video_is_named(tiny_dataset: Path, tiny_options: list[str], tmp_path: Path):
    for file in tiny_dataset.glob("*.jsonl"):
        (tmp_path / file.name).write_text(file.read_text())
    (tmp_path / "videos").mkdir()
    with pytest.raises(InputError, match=r"videos: not found: 10 of 10 annotated videos"):
        main(["--output", str(tmp_path / "run"), *tiny_options, "--data.root", str(tmp_path)])


@pytest.mark.skipif(torch.cuda.is_available(), reason="of a machine without a GPU")
def test_fp16_without_a_gpu_is_refused(tiny_options: list[str], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="fp16: needs a GPU"):
        main(["--output", str(tmp_path / "run"), *tiny_options, "--train.precision", "fp16"])


def test_fewer_queries_than_a_batch_are_one_batch(tiny_options: list[str]) -> None:
    config = load_config("demo", [*tiny_options, "--data.limit", "5"])
    [batch] = make_loader(open_data(config).dataset("train"), config)
    assert len(batch.spans) == 5


def test_processes_that_cannot_share_a_batch_are_reported(tiny_options: list[str]) -> None:
    config = load_config("demo", [*tiny_options, "--train.accumulation", "4"])
    with pytest.raises(InputError, match="are 2 queries at once, which 4 processes do not share"):
        make_loader(open_data(config).dataset("train"), config, processes=4)


@pytest.mark.parametrize(
    ("zero_shot", "warned"),
    [
        ({"brief": {"MR-full-mAP": 14.3}}, True),
        ({"brief": {"MR-full-mAP": 5.6}}, False),
        (None, False),
    ],
)
def test_a_model_that_finds_less_than_its_backbone_is_reported(
    zero_shot: dict | None, warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    metrics = {"report": {"brief": {"MR-full-mAP": 5.6}}, "zero_shot": zero_shot}
    warn_of_little_training(load_config("demo"), metrics)
    line = "the frozen backbone alone finds more (MR-full-mAP 14.3 zero-shot, 5.6 trained)"
    assert (line in caplog.text) == warned
