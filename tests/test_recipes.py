"""The packaged recipes: documented number by number, each with its source."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from sdst.config import Config, as_dict, load_config
from sdst.config.files import PACKAGED
from sdst.evaluation.protocols import PROTOCOLS
from sdst.train import main

DOCUMENT = Path(__file__).parents[1] / "docs" / "recipes.md"
MOMENTS = ("qvhighlights", "charades", "tacos", "activitynet", "nlq")
HIGHLIGHTS = ("tvsum", "youtube")
DATASETS = (*MOMENTS, *HIGHLIGHTS)
# The datasets that each table of the document is of; a later table wins over an earlier one.
TABLES = {
    "All datasets": DATASETS,
    "Features": DATASETS,
    "Moments": MOMENTS,
    "QVHighlights": ("qvhighlights",),
    "Charades-STA": ("charades",),
    "TACoS": ("tacos",),
    "ActivityNet Captions": ("activitynet",),
    "Ego4D-NLQ": ("nlq",),
    "Highlights": HIGHLIGHTS,
    "TVSum": ("tvsum",),
    "YouTube Highlights": ("youtube",),
}
PROTOCOL = {"nlq": "ego4d-nlq"}  # of a dataset whose recipe has a shorter name
NAMES_OF_FILES = {"root", "dataset", "annotations", "features", "video_features", "text_features"}


def documented(dataset: str) -> dict[str, str]:
    """Every value of a dataset's recipe in the document, by key."""
    sections = DOCUMENT.read_text().split("\n## ")[1:]
    assert [section.partition("\n")[0] for section in sections] == list(TABLES)
    found = {}
    for section, datasets in zip(sections, TABLES.values(), strict=True):
        rows = [line.split("|") for line in section.splitlines() if line.startswith("|")]
        if dataset in datasets:
            found |= {row[1].strip(): row[2].strip() for row in rows[2:]}
    return found


def flat(config: Config) -> dict[str, object]:
    """Every value by `section.key`."""
    sections = as_dict(config).items()
    return {f"{name}.{key}": value for name, s in sections for key, value in s.items()}


@pytest.mark.parametrize("dataset", DATASETS)
def test_the_document_has_the_recipes_values(dataset: str) -> None:
    recipe = flat(load_config(f"{dataset}_clip_b32_patches"))
    for key, text in documented(dataset).items():
        value = recipe[key]
        expected = text == "true" if isinstance(value, bool) else type(value)(text)
        assert value == expected, key


@pytest.mark.parametrize("dataset", DATASETS)
def test_the_document_leaves_out_nothing_that_a_recipe_changes(dataset: str) -> None:
    recipe, defaults = flat(load_config(f"{dataset}_clip_b32_patches")), flat(Config())
    changed = {key for key, value in recipe.items() if value != defaults[key]}
    missing = changed - documented(dataset).keys()
    assert missing <= {f"data.{name}" for name in NAMES_OF_FILES}


@pytest.mark.parametrize("file", sorted(PACKAGED.glob("parts/*.yaml")), ids=lambda file: file.stem)
def test_every_number_has_its_source_beside_it(file: Path) -> None:
    numbers = re.findall(r"^ +\w+: *[\d.]+(?:e-?\d+)?\b.*$", file.read_text(), re.MULTILINE)
    zeros = [": 0"]  # of losses that a recipe has not, explained above them
    assert not [line for line in numbers if "#" not in line and not line.endswith(*zeros)]


@pytest.mark.parametrize("dataset", DATASETS)
def test_a_recipe_is_scored_by_its_datasets_protocol(dataset: str) -> None:
    for path in PACKAGED.glob(f"{dataset}_*.yaml"):
        assert load_config(path.stem).data.protocol == PROTOCOL.get(dataset, dataset)


@pytest.mark.parametrize("dataset", DATASETS)
def test_a_recipe_runs_on_planted_features_of_the_real_annotations(
    dataset: str, shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    options = {
        "data.root": shared_data / dataset,
        "data.planted": "true",
        "data.limit": 12,
        "model.width": 32,
        "train.epochs": 2,
        "train.batch_size": 4,
    }
    if dataset == "activitynet":  # of which val alone is here
        name = "activitynet_val_release.jsonl"
        options["data.annotations"] = json.dumps({"train": name, "val": name})
    given = [part for key, value in options.items() for part in (f"--{key}", str(value))]
    assert main(["--config", f"{dataset}_clip_slowfast", "--output", str(tmp_path), *given]) == 0
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["split"] == ("test" if dataset in ("qvhighlights", "tacos") else "val")
    protocol = PROTOCOLS[PROTOCOL.get(dataset, dataset)]
    head = f"{protocol.title}, {metrics['queries']} queries; planted features; the first 12 queries"
    lines = capsys.readouterr().out.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(head))
    labels = [line[2:].split("  ")[0] for line in lines[start + 1 :]]
    assert labels[: len(protocol.headline)] == list(protocol.headline)
