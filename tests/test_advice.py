"""An option that a message names exists, at every command that may print the message."""

from __future__ import annotations

import ast
import re
from functools import cache
from importlib import import_module
from pathlib import Path

import pytest

import sdst
from sdst.__main__ import VERBS
from sdst.config import config_parser

ROOT = Path(sdst.__file__).parent
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z_.-]*[a-z]")
OPEN_DATA = {"train", "evaluate", "extract", "convert", "inspect"}
TAKE_CONFIG_KEYS = OPEN_DATA
# Which commands print the messages of a module that several share.
SHARED = {
    "backbones/openclip/files": {"extract"},  # the one that has both of the options it names
    "extraction/remote": {"extract", "index"},
    "data/video_files": {"ground", "extract"},
    "demo/__init__": OPEN_DATA,
    "grounding/predict": {"evaluate"},
    "evaluation/submission": {"evaluate"},
    "extraction/budget": {"extract"},
    "extraction/options": {"extract", "index"},
    "extraction/ray_data": {"extract", "index"},
    "grounding/answerer": {"ground", "serve"},
    "grounding/encoder": {"ground"},
    "grounding/export/__init__": {"ground"},
    "grounding/grounder": {"ground"},
    "grounding/queries": {"ground"},
    "grounding/search": {"extract"},  # which its message is a command of
    "hub/models": {"train"},  # whose folders it names
    "indexing/build": {"index"},
    "indexing/clip_index": {"ground"},
    "indexing/metadata": {"index"},
    "config/key_help": {"train"},
    "pretrained/folder": {"train"},
    "config/renames": {"extract", "convert"},
    "sources/dataset": OPEN_DATA,
    "sources/splits": OPEN_DATA,
    "terminal/options": set(VERBS) - {"cache", "import", "info"},  # which are done at once
    "training/initial": {"train"},
    "training/run_folder": {"train"},
    "training/state": {"train"},
    "training/step": {"train"},
}
ROOMS = {"importing": {"import"}, "serving": {"serve"}}  # whose messages one command prints
OTHERS = {  # modules whose strings are no messages of the commands
    "__main__": "lists the verbs",
    "demo/pretraining/probe": "a script of its own",
    "demo/pretraining/train": "a script of its own",
    "sources/joined": "makes keys of a dataset's config",
    "training/provenance": "asks git",
}
NOT_OPTIONS = {"--section.key", "--dtype"}  # a form; an old name, reported as one


def named_options(file: Path) -> set[str]:
    """Options in the strings of a module, docstrings apart."""
    tree = ast.parse(file.read_text())
    documented = (ast.Module, ast.FunctionDef, ast.ClassDef)
    docstrings = {
        ast.get_docstring(node, clean=False)
        for node in ast.walk(tree)
        if isinstance(node, documented)
    }
    strings = {
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    return {name for text in strings - docstrings for name in OPTION.findall(text)} - NOT_OPTIONS


MODULES = {
    str(file.relative_to(ROOT).with_suffix("")): options
    for file in sorted(ROOT.rglob("*.py"))
    if "kernels" not in file.parts and (options := named_options(file))
}


@cache
def config_keys() -> str:
    return config_parser().format_help()


def options_of(verb: str, capsys: pytest.CaptureFixture) -> set[str]:
    with pytest.raises(SystemExit):
        import_module(f"sdst.{verb}").main(["--help"])
    keys = config_keys() if verb in TAKE_CONFIG_KEYS else ""
    return set(OPTION.findall(capsys.readouterr().out + keys))


@pytest.mark.parametrize("module", sorted(MODULES.keys() - OTHERS.keys()))
def test_options_in_messages_exist(module: str, capsys) -> None:
    room = module.partition("/")[0]
    verbs = {module} if module in VERBS else SHARED.get(module) or ROOMS[room]
    for verb in verbs:
        assert MODULES[module] <= options_of(verb, capsys), verb
