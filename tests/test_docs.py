"""README and docs/: Python blocks run, commands have known options."""

from __future__ import annotations

import re
import shlex
import shutil
from importlib import import_module
from pathlib import Path

import pytest

from sdst.__main__ import VERBS
from sdst.config import load_config
from tests.readme import README, ROOT, commands

PAGES = [README, *sorted((ROOT / "docs").rglob("*.md"))]
MOST_WORDS = 600  # of the README: under four minutes
WITH_KEYS = {"train", "extract", "convert"}  # take --section.key
# A shell line that calls sdst, by whatever name.
COMMAND = re.compile(r"(?:.*-m sdst\.|sdst )(\w+)(.*)$")


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


def pages_with(language: str) -> list:
    return [
        pytest.param(page, id=str(page.relative_to(ROOT)))
        for page in PAGES
        if blocks(page, language)
    ]


@pytest.fixture
def reader(tmp_path: Path, untrained: Path, film: Path, monkeypatch) -> Path:
    """The folder of someone who follows the pages, entered."""
    shutil.copytree(untrained, tmp_path / "runs" / "demo")
    (tmp_path / "videos").mkdir()
    for name in ("film.mp4", "videos/a.mp4", "videos/b.mp4"):
        shutil.copy(film, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SDST_CACHE", str(tmp_path / "cache"))
    return tmp_path


@pytest.mark.parametrize("page", pages_with("python"))
def test_the_python_of_a_page_runs(page: Path, reader: Path) -> None:
    names: dict = {"__name__": "page"}
    for code in blocks(page, "python"):
        exec(compile(code, str(page), "exec"), names)


@pytest.mark.parametrize("page", pages_with("bash"))
def test_the_commands_of_a_page_have_known_options(page: Path) -> None:
    for line in commands(page.read_text()):
        if (found := COMMAND.match(line)) and found[1] in VERBS and "--help" not in line:
            check_command(found[1], shlex.split(found[2]))


def check_command(verb: str, arguments: list[str]) -> None:
    options, others = import_module(f"sdst.{verb}").make_parser().parse_known_args(arguments)
    if verb in WITH_KEYS:
        load_config(getattr(options, "config", None) or "demo", others)
    else:
        assert not others, f"sdst.{verb} has no {others}"


def test_a_page_with_an_unknown_option_fails() -> None:
    with pytest.raises(ValueError, match=r"train\.epohcs"):
        check_command("train", ["--train.epohcs", "3"])
    with pytest.raises(AssertionError, match="--chekpoint"):
        check_command("ground", ["--chekpoint", "runs/demo"])


def test_the_readme_is_one_page() -> None:
    assert len(README.read_text().split()) <= MOST_WORDS
