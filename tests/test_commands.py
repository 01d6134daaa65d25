"""The commands: one name for all, and options that are checked before PyTorch is loaded."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import sdst
from sdst.__main__ import VERBS, main
from sdst.config import config_keys, load_config
from sdst.config.key_help import COMMON
from sdst.errors import InputError

WITHOUT_TORCH = """
import runpy, sys
sys.argv = sys.argv[1:]
try:
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
except SystemExit as end:
    loaded = sorted({"torch", "scipy", "accelerate"} & set(sys.modules))
    print("loaded:", *loaded, file=sys.stderr)
    sys.exit(end.code)
"""


def run(*arguments: str) -> subprocess.CompletedProcess:
    """A command, which ends and reports what it has loaded."""
    command = [sys.executable, "-c", WITHOUT_TORCH, *arguments]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_a_verb_loads_no_torch(verb: str) -> None:
    done = run(f"sdst.{verb}", "--help")
    assert done.returncode == 0
    assert f"sdst.{verb}" in done.stdout
    assert done.stderr == "loaded:\n"


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["sdst.train", "--optput", "runs/x"], "optput"),
        (["sdst.train", "--train.lrr", "1"], "train.lrr"),
        (["sdst.train", "--config", "nothing"], "nothing"),
        (["sdst.train", "--model.width", "30"], "model.width 30"),
        (["sdst.ground", "--checkpont", "runs/x"], "checkpont"),
        (["sdst.ground", "--checkpoint", "x", "--video", __file__, "--query", " "], "query 1 is"),
        (["sdst.ground", "--zero-shot", "--video", "x", "--query", "a"], "needs --backbone NAME"),
        (["sdst.ground", "--query", "a"], "give one of --video FILE, --videos PATH"),
        (["sdst.ground", "--checkpoint", "x", "--query", "a"], "give one of --video FILE"),
        (["sdst.evaluate", "--predictons", "P.jsonl"], "predictons"),
        (["sdst.evaluate", "--predictions", "P.jsonl"], "--annotations is missing"),
        (["sdst.extract", "--videos", "x", "--outptu", "y"], "outptu"),
        (["sdst.extract", "--config", "custom", "--data.rot", "x"], "data.rot"),
        (["sdst.convert", "--stoer", "x"], "give either --config or --store"),
        (["sdst.convert", "--config", "custom", "--data.rot", "x"], "data.rot"),
        (["sdst.inspect", "--root", "x", "--data.rot", "x"], "data.rot"),
        (["sdst.info", "--confg", "demo"], "confg"),
        (["sdst.info", "--config", "nothing"], "nothing"),
        (["sdst", "trian"], "did you mean train?"),
        (["sdst.train", "--epochs", "3"], "did you mean --train.epochs?"),
        (["sdst.train", "--outptu", "runs/x"], "did you mean --output?"),
        (["sdst.train", "--config", "demos"], "did you mean demo?"),
    ],
)
def test_a_wrong_option_is_refused_before_torch_is_loaded(arguments, named: str) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert named in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.endswith("\nloaded:\n")


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_refuses_an_option_in_one_line(verb: str) -> None:
    with pytest.raises(InputError) as refused:
        import_module(f"sdst.{verb}").main(["--nothing-of-the-kind", "3"])
    assert "\n" not in str(refused.value)


def test_help_shows_the_keys_that_people_change_and_all_of_them_on_request() -> None:
    few, all_of_them = run("sdst.train", "--help").stdout, run("sdst.train", "--help-all").stdout
    assert len(re.findall(r"^  --\w+\.\w+", few, re.MULTILINE)) == len(COMMON)
    assert re.findall(r"^  --(\w+\.\w+)", all_of_them, re.MULTILINE) == config_keys()
    assert "(passes; a whole number or auto; default: 30)" in few
    for text in (few, all_of_them):
        assert text.count("usage:") == 1
        assert not re.search(r"\[[PDS][\]:,]|Literal", text)


def test_the_merged_config_is_printed_and_loads_again(tmp_path: Path) -> None:
    done = run("sdst.train", "--train.epochs", "3", "--print-config")
    (tmp_path / "c.yaml").write_text(done.stdout)
    assert load_config(tmp_path / "c.yaml") == load_config("demo", ["--train.epochs", "3"])


@pytest.mark.parametrize("arguments", [[], ["--help"]])
def test_without_a_verb_all_of_them_are_listed(arguments: list[str], capsys) -> None:
    assert main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[2:]] == list(VERBS)


def test_the_script_lists_every_command() -> None:
    folder = Path(sdst.__file__).parent
    commands = {p.stem for p in folder.glob("*.py") if "\n    run(main)\n" in p.read_text()}
    assert commands == {"__main__", *VERBS}


def test_a_verb_takes_the_options_behind_it(capsys) -> None:
    main(["info", "--config", "qvhighlights_internvideo2"])
    assert "trainable parameters of qvhighlights_internvideo2" in capsys.readouterr().out


def test_a_word_like_no_verb_has_no_suggestion() -> None:
    with pytest.raises(InputError, match=r"^no verb 'xyzzy', expected one of train, [a-z, ]*$"):
        main(["xyzzy"])


def test_the_version_is_the_packages(capsys) -> None:
    main(["--version"])
    assert capsys.readouterr().out == f"sdst {sdst.__version__}\n"


def test_lazy_names_are_listed() -> None:
    assert {*sdst.__all__, "__version__"} <= set(dir(sdst))
