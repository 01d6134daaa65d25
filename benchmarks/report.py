"""`python -m benchmarks.report`: RESULTS.md and its pages, from the figures in `results/`.

Every family of figures is a file `results/NAME.json`. RESULTS.md has its summary and the tables
marked for it, `results/NAME.md` has all of its tables. `contents.json` has the introduction and the
order of the families. `python -m benchmarks.record` writes a command's tables into a family.
"""

from __future__ import annotations

import argparse
import json
import re
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sdst.errors import InputError, run
from sdst.files.publish import replace_text

FOLDER = Path(__file__).parent / "results"
_WIDTH = 120

Cell = str | int | float | None | dict[str, float]  # a dict is a mean and its deviation, sd


@dataclass(frozen=True)
class Result:
    """A measurement: its figures, and where they come from.

    Links in sentences are relative to this folder.

    Args:
        text, notes: sentences before and after the table; an empty one ends a paragraph.
        command: what measured it, a line each; None where no command of the project does.
        date: the day on which the figures were recorded, YYYY-MM-DD.
        conditions: what the figures are limited to, such as planted features.
        overview: whether RESULTS.md shows the table; a list names its rows by their first cell.
    """

    text: Sequence[str] = ()
    columns: Sequence[str] = ()
    rows: Sequence[Sequence[Cell]] = ()
    notes: Sequence[str] = ()
    command: Sequence[str] | None = None
    machine: str | None = None
    date: str | None = None
    torch: str | None = None
    commit: str | None = None
    seeds: Sequence[int] = ()
    conditions: str | None = None
    overview: bool | Sequence[str] = False


@dataclass(frozen=True)
class Family:
    """Results on one question.

    Args:
        summary: sentences for RESULTS.md: what was found, and under which condition.
    """

    name: str
    title: str
    summary: Sequence[str]
    results: list[Result] = field(default_factory=list)


def read_family(file: Path) -> Family:
    """A family of figures.

    Raises:
        InputError: the file is not one; the message names what is wrong.
    """
    content = read_json(file)
    try:
        results = [Result(**result) for result in content["results"]]
        family = Family(file.stem, content["title"], content["summary"], results)
    except (KeyError, TypeError) as error:
        raise InputError(f"{file}: not a family of results: {error}") from None
    for number, result in enumerate(results):
        if any(len(row) != len(result.columns) for row in result.rows):
            raise InputError(
                f"{file}: results[{number}]: expected {len(result.columns)} cells in each row, one "
                "for each column"
            )
        if missing := [label for label in shown_labels(result) if label not in labels_of(result)]:
            raise InputError(
                f"{file}: overview of results[{number}]: no row begins with {missing[0]!r}"
            )
    return family


def read_json(file: Path) -> Any:
    """The content of a JSON file.

    Raises:
        InputError: it cannot be read.
    """
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{file}: cannot be read as JSON: {error}") from None


def labels_of(result: Result) -> list[Cell]:
    """The first cell of every row."""
    return [row[0] for row in result.rows]


def shown_labels(result: Result) -> Sequence[str]:
    """Labels of the rows that RESULTS.md shows, where it shows some of them."""
    return () if isinstance(result.overview, bool) else result.overview


def render(folder: Path = FOLDER) -> dict[Path, str]:
    """The text of RESULTS.md and of every page, by file.

    Raises:
        InputError: a file is damaged, or `contents.json` and the families differ.
    """
    contents = read_json(folder / "contents.json")
    names = [name for section in contents["sections"] for name in section["families"]]
    present = {file.stem for file in folder.glob("*.json")} - {"contents"}
    if wrong := present.symmetric_difference(names):
        raise InputError(
            f"{folder / 'contents.json'}: {', '.join(sorted(wrong))}: families and files differ"
        )
    families = {name: read_family(folder / f"{name}.json") for name in names}
    pages = {folder / f"{name}.md": page(family) for name, family in families.items()}
    return {folder.parent / "RESULTS.md": overview(contents, families), **pages}


def overview(contents: dict, families: dict[str, Family]) -> str:
    """RESULTS.md."""
    parts = ["# Results", *paragraphs(contents["introduction"])]
    for section in contents["sections"]:
        parts.append(f"## {section['title']}")
        for name in section["families"]:
            parts += _summary(families[name])
    return "\n\n".join(parts) + "\n"


def _summary(family: Family) -> Iterator[str]:
    yield from paragraphs([f"**[{family.title}](results/{family.name}.md).**", *family.summary])
    for result in family.results:
        if result.overview:
            labels = shown_labels(result)
            rows = [row for row in result.rows if not labels or row[0] in labels]
            yield markdown(result.columns, rows) + f"\n{source(result)}"


def page(family: Family) -> str:
    """A family's own page: all of its figures."""
    parts = list(paragraphs(family.summary))
    for result in family.results:
        parts += paragraphs(result.text)
        if result.rows:
            parts.append(markdown(result.columns, result.rows).rstrip("\n"))
        parts += [source(result), *paragraphs(result.notes)]
    below = [re.sub(r"\]\((?!\w+:|#)", "](../", part) for part in parts]
    origin = f"From [{family.name}.json]({family.name}.json), by `python -m benchmarks.report`."
    return "\n\n".join([f"# {family.title}", *below, origin]) + "\n"


def source(result: Result) -> str:
    """Where figures come from, in one line."""
    parts = [f"`{line}`" for line in result.command or ()]
    if result.machine and not parts:
        parts = ["no command"]
    seeds = ", ".join(map(str, result.seeds))
    seeds = f"{'seed' if len(result.seeds) == 1 else 'seeds'} {seeds}" if seeds else None
    version = f"torch {result.torch}" if result.torch else None
    commit = f"commit {result.commit[:12]}" if result.commit else None
    parts += filter(None, [result.conditions, seeds, result.machine, version, result.date, commit])
    return f"<sub>{' · '.join(parts)}</sub>"


def markdown(columns: Sequence[str], rows: Iterable[Sequence[Cell]]) -> str:
    """A table in Markdown."""
    lines = [list(columns), ["---"] * len(columns), *([_text(x) for x in row] for row in rows)]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def _text(cell: Cell) -> str:
    if isinstance(cell, dict):
        return f"{cell['mean']} ± {cell['sd']}"
    if isinstance(cell, int):
        return f"{cell:,}"
    return "" if cell is None else str(cell)


def paragraphs(sentences: Iterable[str]) -> Iterator[str]:
    """Sentences as wrapped paragraphs; an empty one ends a paragraph, `- ` begins a list's item."""
    for text in "\n".join(sentences).split("\n\n"):
        items = re.split(r"\n(?=- )", text.strip("\n"))
        if text:
            yield "\n".join(map(_wrapped, items))


def _wrapped(text: str) -> str:
    return textwrap.fill(
        text,
        _WIDTH,
        subsequent_indent="  " if text.startswith("- ") else "",
        break_long_words=False,
        break_on_hyphens=False,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; see `python -m benchmarks.report --help`."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.report", description=__doc__)
    parser.parse_args(arguments)
    for file, text in render().items():
        replace_text(file, text)
    return 0


if __name__ == "__main__":
    run(main)
