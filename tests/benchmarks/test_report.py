"""RESULTS.md and its pages are what the report makes of the figures."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from benchmarks.record import as_json
from benchmarks.report import FOLDER, paragraphs, read_family, render
from sdst.errors import InputError

MOST_LINES = 260
FAMILIES = sorted(set(FOLDER.glob("*.json")) - {FOLDER / "contents.json"})


def test_the_pages_are_what_the_report_renders() -> None:
    rendered = render()
    stale = [file.name for file, text in rendered.items() if file.read_text() != text]
    assert not stale, "run python -m benchmarks.report"
    assert set(FOLDER.glob("*.md")) < rendered.keys()


def test_results_are_read_in_one_sitting() -> None:
    assert len((FOLDER.parent / "RESULTS.md").read_text().splitlines()) <= MOST_LINES


@pytest.mark.parametrize("file", FAMILIES, ids=lambda file: file.stem)
def test_every_figure_has_a_date_and_a_source(file: Path) -> None:
    for result in read_family(file).results:
        assert result.date
        assert result.command or result.conditions


@pytest.mark.parametrize("file", sorted(FOLDER.glob("*.json")), ids=lambda file: file.stem)
def test_a_file_is_as_record_writes_it(file: Path) -> None:
    text = file.read_text()
    assert as_json(json.loads(text)) == text


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(FOLDER, tmp_path / "results"))


def test_a_family_that_is_not_in_the_contents_is_named(folder: Path) -> None:
    (folder / "stray.json").write_text("{}")
    with pytest.raises(InputError, match=r"contents\.json: stray:"):
        render(folder)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("rows", [["a", 1]], "expected 3 cells"),
        ("overview", ["c"], "no row begins with 'c'"),
        ("machines", "", "machines"),
    ],
)
def test_a_damaged_family_is_named(tmp_path: Path, key: str, value: object, message: str) -> None:
    result = {"columns": ["", "x", "y"], "rows": [["a", 1, 2]], "overview": ["a"], key: value}
    file = tmp_path / "speed.json"
    file.write_text(as_json({"title": "Speed", "summary": [], "results": [result]}))
    with pytest.raises(InputError, match=rf"speed\.json: .*{message}"):
        read_family(file)


def test_sentences_become_paragraphs_and_lists() -> None:
    sentences = ["One.", "Two:", "", "- first", "- " + "long " * 30, "", "Last."]
    first, items, last = paragraphs(sentences)
    assert (first, last) == ("One. Two:", "Last.")
    assert items.splitlines()[:2] == ["- first", "- " + "long " * 22 + "long"]
    assert items.splitlines()[2].startswith("  long")
