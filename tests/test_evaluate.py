"""`python -m sdst.evaluate`, for a checkpoint and for anyone's predictions."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest

from sdst.data.jsonl import write_json_lines
from sdst.errors import InputError
from sdst.evaluate import main
from sdst.evaluation import read_predictions
from tests.processor import needs_bf16


def test_a_checkpoint_is_scored_as_at_the_end_of_its_training(
    tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "report.json"
    main(["--checkpoint", str(tiny_checkpoint), "--split", "test", "--json", str(out)])
    metrics = json.loads((tiny_checkpoint / "metrics.json").read_text())
    assert json.loads(out.read_text()) == metrics["report"]
    assert "R1@0.5" in capsys.readouterr().out


def test_predictions_are_scored_against_any_annotations(
    tiny_checkpoint: Path, tiny_dataset: Path, tmp_path: Path
) -> None:
    out = tmp_path / "report.json"
    files = [str(tiny_checkpoint / "predictions.jsonl"), str(tiny_dataset / "test.jsonl")]
    options = ["--predictions", files[0], "--annotations", files[1], "--clip-length", "1"]
    main([*options, "--json", str(out)])
    metrics = json.loads((tiny_checkpoint / "metrics.json").read_text())
    found = json.loads(out.read_text())
    assert found["brief"] == pytest.approx(metrics["report"]["brief"], abs=0.02)


@pytest.mark.parametrize(
    ("dataset", "top"),
    [
        ("qvhighlights", ["R1@0.5", "R1@0.7", "mAP@0.5"]),
        ("charades", ["R1@0.3", "R1@0.5", "R1@0.7", "mIoU"]),
        ("ego4d-nlq", ["R1@0.3", "R1@0.5", "R5@0.3", "R5@0.5"]),
    ],
)
def test_the_table_begins_with_the_figures_that_the_datasets_papers_report(
    tmp_path: Path, capsys: pytest.CaptureFixture, dataset: str, top: list[str]
) -> None:
    files = write_files(tmp_path)
    main([*files, "--dataset", dataset])
    title, *lines = capsys.readouterr().out.splitlines()
    assert "2 queries" in title
    assert [line.split("  ")[1] for line in lines[: len(top)]] == top


def test_the_clip_length_is_the_datasets(tmp_path: Path) -> None:
    """Clip 8 is in the 10-s video of 1-s clips, behind the end of one of 2-s clips."""
    rated = {"relevant_clip_ids": [8], "saliency_scores": [[4, 4, 4]]}
    files = write_files(tmp_path, truth=rated)
    main([*files, "--dataset", "charades"])
    with pytest.raises(InputError, match="check the clip length"):
        main([*files, "--dataset", "tacos"])


def test_tvsum_is_scored_by_domain(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    labels = {"domain": "BK", "label": [[1, 5]] * 5 + [[3, 1]] * 5}
    files = write_files(tmp_path, truth=labels)
    main([*files, "--dataset", "tvsum", "--json", str(tmp_path / "out.json")])
    report = json.loads((tmp_path / "out.json").read_text())
    assert report == {"brief": {"mAP": 50.0}, "domains": {"BK": 50.0}}
    assert "BK" in capsys.readouterr().out


def test_a_submission_of_val_and_test_is_zipped(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    files = [*write_files(tmp_path), "--dataset", "qvhighlights"]
    for split in ("val", "test"):
        main([*files, "--submit", str(tmp_path / "out"), "--split", split])
    names = ["hl_val_submission.jsonl", "hl_test_submission.jsonl"]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == sorted(
        [*names, "submission.zip"]
    )
    with ZipFile(tmp_path / "out" / "submission.zip") as archive:
        assert archive.namelist() == names
        assert archive.read(names[0]) == (tmp_path / "out" / names[0]).read_bytes()
    assert read_predictions(tmp_path / "out" / names[0]) == read_predictions(files[1])
    assert "the server (CodaLab) has closed" in capsys.readouterr().out


def test_a_dataset_without_a_server_submits_nothing(tmp_path: Path, tiny_checkpoint: Path) -> None:
    checkpoint = ["--checkpoint", str(tiny_checkpoint)]
    for options in ([*write_files(tmp_path), "--dataset", "charades"], checkpoint):
        with pytest.raises(InputError, match="--submit: there is no evaluation server for c"):
            main([*options, "--submit", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


def test_an_nlq_submission_has_the_keys_of_ego4ds_evaluator(tmp_path: Path) -> None:
    """The figures that NLQ/VSLNet/utils/evaluate_ego4d_nlq.py of EGO4D/episodic-memory reads."""
    windows = [[second, second + 1, 1 - second / 10] for second in range(7)]
    queries = {"uid-a_0": "c1", "uid_b_12": "c2"}
    truth = [
        {"qid": qid, "query": "where?", "vid": vid, "duration": 10} for qid, vid in queries.items()
    ]
    write_json_lines(tmp_path / "a.jsonl", truth)
    answers = [
        {"qid": qid, "vid": vid, "pred_relevant_windows": windows} for qid, vid in queries.items()
    ]
    write_json_lines(tmp_path / "p.jsonl", answers)
    files = [f"--predictions={tmp_path / 'p.jsonl'}", f"--annotations={tmp_path / 'a.jsonl'}"]
    out = ["--dataset", "ego4d-nlq", "--submit", str(tmp_path / "out"), "--split", "test"]
    main([*files, *out])
    document = json.loads((tmp_path / "out" / "nlq_test_submission.json").read_text())
    assert (document["version"], document["challenge"]) == ("1.0", "ego4d_nlq_challenge")
    times = [[second, second + 1] for second in range(5)]
    assert document["results"] == [
        {"clip_uid": "c1", "annotation_uid": "uid-a", "query_idx": 0, "predicted_times": times},
        {"clip_uid": "c2", "annotation_uid": "uid_b", "query_idx": 12, "predicted_times": times},
    ]
    write_json_lines(tmp_path / "a.jsonl", [{**truth[0], "qid": "val0"}])
    write_json_lines(tmp_path / "p.jsonl", [{**answers[0], "qid": "val0"}])
    with pytest.raises(InputError, match="qid 'val0': expected <annotation_uid>_<number>"):
        main([*files, *out])


def test_the_official_sample_is_a_valid_submission(shared_data: Path, tmp_path: Path) -> None:
    folder = shared_data / "qvhighlights"
    sample = folder / "sample_val_preds.jsonl"
    truth = str(folder / "highlight_val_release.jsonl")
    options = ["--dataset", "qvhighlights", "--predictions", str(sample), "--annotations", truth]
    main([*options, "--submit", str(tmp_path)])
    assert read_predictions(tmp_path / "hl_val_submission.jsonl") == read_predictions(sample)


def test_scoring_files_does_not_load_pytorch(tmp_path: Path) -> None:
    files = write_files(tmp_path)
    code = f"import sys, sdst.evaluate as e; e.main({files}); sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


def test_a_checkpoint_submits_both_splits(tiny_checkpoint: Path, tmp_path: Path) -> None:
    dataset = ["--dataset", "qvhighlights"]
    main(["--checkpoint", str(tiny_checkpoint), *dataset, "--submit", str(tmp_path / "out")])
    with ZipFile(tmp_path / "out" / "submission.zip") as archive:
        assert len(archive.namelist()) == 2
    own = read_predictions(tiny_checkpoint / "predictions.jsonl")
    assert read_predictions(tmp_path / "out" / "hl_test_submission.jsonl") == own


@needs_bf16
def test_a_checkpoint_answers_in_bf16(tiny_checkpoint: Path, tmp_path: Path) -> None:
    for precision in ("fp32", "bf16"):
        options = ["--precision", precision, "--submit", str(tmp_path / precision)]
        options += ["--dataset", "qvhighlights", "--split", "val"]
        main(["--checkpoint", str(tiny_checkpoint), *options])
    whole, rounded = (
        read_predictions(tmp_path / precision / "hl_val_submission.jsonl")
        for precision in ("fp32", "bf16")
    )
    for one, other in zip(whole, rounded, strict=True):
        assert one["pred_saliency_scores"] != other["pred_saliency_scores"]
        assert one["pred_saliency_scores"] == pytest.approx(other["pred_saliency_scores"], abs=0.02)


def test_a_precision_goes_with_a_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--precision goes with --checkpoint"):
        main([*write_files(tmp_path), "--precision", "bf16"])


@pytest.mark.parametrize(
    ("fault", "named"),
    [
        (
            {"pred_relevant_windows": [[2, 17, 1]]},
            r"qid 1: window \[2, 17\] is outside a video of 10 s",
        ),
        ({"pred_relevant_windows": [[-1, 6, 1]]}, r"qid 1: window \[-1, 6\] is outside"),
        ({"pred_saliency_scores": [0.5] * 20}, "qid 1: 20 pred_saliency_scores, expected 5"),
        ({"pred_saliency_scores": None}, "qid 1: expected both"),
        ({"vid": "w"}, "qid 1 has vid 'w', expected 'v'"),
        ({"qid": 3}, "qid 3 is not in the annotations"),
    ],
)
def test_a_faulty_submission_is_refused_and_nothing_written(
    tmp_path: Path, fault: dict, named: str
) -> None:
    files = [*write_files(tmp_path, found=fault), "--dataset", "qvhighlights"]
    with pytest.raises(InputError, match=named):
        main([*files, "--submit", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


def write_files(folder: Path, found: dict | None = None, truth: dict | None = None) -> list[str]:
    """Two queries answered, as options; qid 1's prediction and all annotations can be altered."""
    query = {"query": "a cat jumps", "vid": "v"}
    answer = {"pred_relevant_windows": [[2, 6, 0.9]], "pred_saliency_scores": [5, 4, 3, 2, 1]}
    label = {"duration": 10, "relevant_windows": [[2, 6]], **(truth or {})}
    records = {
        "predictions": [
            {"qid": 1, **query, **answer, **(found or {})},
            {"qid": 2, **query, **answer},
        ],
        "annotations": [{"qid": qid, **query, **label} for qid in (1, 2)],
    }
    options = []
    for name, lines in records.items():
        write_json_lines(folder / f"{name}.jsonl", lines)
        options += [f"--{name}", str(folder / f"{name}.jsonl")]
    return options


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "give either --checkpoint DIR or --predictions FILE"),
        (["--predictions", "p.jsonl"], "--annotations is missing"),
        (["--annotations", "a.jsonl"], "give either --checkpoint"),
        (["--checkpoint", "runs/none"], "runs/none"),
        (
            ["--checkpoint", "c", "--predictions", "p.jsonl"],
            "--predictions: not allowed with argument --checkpoint",
        ),
        (["--checkpoint", "c", "--annotations", "a.jsonl"], "--annotations goes with"),
        (["--checkpoint", "c", "--clip-length", "2"], "--clip-length goes with --predictions"),
        (["--predictions", "no-such.jsonl", "--annotations", "no-such.jsonl"], "no-such.jsonl"),
        (
            ["--predictions", "p.jsonl", "--annotations", "a.jsonl", "--split", "test"],
            "--split goes with --checkpoint",
        ),
        (
            ["--predictions", "p.jsonl", "--annotations", "a.jsonl", "--clip-length", "0"],
            "--clip-length: 0, expected seconds above 0",
        ),
        (["--checkpoint", "c", "--submit", "out", "--json", "r.json"], "--json: not allowed with"),
        (["--checkpoint", "c", "--dataset", "tvsum", "--submit", "out"], "--dataset tvsum goes"),
        (["--checkpoint", "c", "--dataset", "no-such-dataset"], "no-such-dataset"),
    ],
)
def test_a_wrong_mix_of_options_is_refused(options: list[str], message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)) as error:
        main(options)
    assert "\n" not in str(error.value)
