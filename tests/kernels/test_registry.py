"""An op is added in one place: everything else finds it in the registry."""

from __future__ import annotations

import inspect
import re
import sys
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor

from benchmarks import kernels as benchmark
from sdst.info import main as info
from sdst.kernels import dispatch, library
from sdst.kernels.examples import Make
from sdst.kernels.registry import OPS, Op
from tests.faults import kernels as faults
from tests.kernels.calls import results

CSRC = Path(__file__).parents[2] / "csrc"

TOY = """
from sdst.kernels import dispatch
from sdst.kernels.registry import Op, always, register
from sdst.kernels.shapes import FLOAT, check_tensors

def double(x, *, implementation="auto"):
    check_tensors("double", x=("L", FLOAT, x))
    dispatch.choose("double", implementation, x)
    return 2 * x

register(
    Op(
        name="double",
        call=double,
        implementations={"cuda": lambda x: ["x is not made for it"], "reference": always},
        example=lambda make, rows=3: {"x": make.floats(rows)},
        choices={"rows": range(4)},
        asked=("x",),
        ran_on={"cuda": "NVIDIA T4"},
    )
)
"""


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A module outside of the package that adds an op, imported."""
    (tmp_path / "toy_op.py").write_text(TOY)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(OPS, "double", None)  # so that it is taken away again
    yield import_module("toy_op")
    del sys.modules["toy_op"]


def test_info_shows_an_added_op(toy: ModuleType, capsys: pytest.CaptureFixture) -> None:
    info([])
    rows = capsys.readouterr().out.split("\ndouble\n")[1].splitlines()
    assert rows[0].split(maxsplit=1) == ["cuda", "x is not made for it"]
    assert rows[1].split() == ["reference", "taken"]


def test_the_benchmarks_tables_list_an_added_op(toy: ModuleType) -> None:
    table = benchmark.evidence_table()
    assert "| double | cuda | executed on an NVIDIA T4; here" in table
    assert "| double | reference | executed on" in table


def test_an_added_op_gets_hostile_calls(toy: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faults, "OTHERS", ())
    monkeypatch.setattr(faults, "OPS", {"double": OPS["double"]})
    assert [line for line in map(faults.try_one, range(20)) if line] == []

    def shorter(x: Tensor, implementation: str) -> Tensor:
        return toy.double(x if implementation == "reference" else x[1:])

    monkeypatch.setattr(faults, "OPS", {"double": replace(OPS["double"], call=shorter)})
    assert any(faults.try_one(seed) for seed in range(20))


@pytest.mark.parametrize("op", OPS.values(), ids=OPS)
def test_an_example_is_a_good_call_by_default(op: Op) -> None:
    found = results(op, op.example(Make()), "auto")
    expected = results(op, op.example(Make()), list(op.implementations)[-1])
    if op.name != "dropout":  # PyTorch draws other numbers
        for mine, reference in zip(found, expected, strict=True):
            torch.testing.assert_close(mine, reference)


@pytest.mark.parametrize("op", OPS.values(), ids=OPS)
def test_every_parameter_of_an_example_has_choices(op: Op) -> None:
    parameters = list(inspect.signature(op.example).parameters)
    assert parameters[1:] == [name for name in parameters if name in op.choices]
    assert all(shape.keys() <= op.choices.keys() for shape in op.launches.values())


@pytest.mark.parametrize("op", OPS.values(), ids=OPS)
def test_what_an_op_says_it_is_asked_is_what_the_dispatcher_sees(
    op: Op, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = op.example(Make())
    seen, choose = [], dispatch.choose

    def watched(name: str, implementation: str, *args: object) -> str:
        seen.append(args)
        return choose(name, implementation, *args)

    monkeypatch.setattr(dispatch, "choose", watched)
    op.call(**call)
    expected = [call[name] for name in op.asked]
    assert all(
        torch.equal(x, y) if isinstance(x, Tensor) else x == y
        for x, y in zip(seen[0], expected, strict=op.name != "row_program")
    )


@pytest.mark.parametrize("op", [op for op in OPS if op != "row_program"])
def test_an_op_says_what_it_computes_and_moves(op: str) -> None:
    module = import_module(f"sdst.kernels.{op}")
    assert {"flops", "traffic"} <= vars(module).keys()


def signatures_in_cpp() -> dict[str, str]:
    """Of every exported function of csrc/cpu, a letter for each argument as in library.KINDS."""
    letters = {"int64_t": "n", "int32_t": "i", "float": "f"}
    found = {}
    for file in (CSRC / "cpu").glob("*.cpp"):
        for name, arguments in re.findall(r"SDST_API void (\w+)\(([^)]*)\)", file.read_text()):
            kinds = (
                re.fullmatch(r"(.*?[ *])\w+", x.strip(), re.S)[1] for x in arguments.split(",")
            )
            found[name] = "".join("p" if "*" in x else letters[x.strip()] for x in kinds)
    return found


def test_every_wrapper_declares_the_signature_that_its_function_has() -> None:
    expected = signatures_in_cpp()
    del expected["sdst_use_openmp"]  # called once, where the library is loaded
    assert expected == library.SIGNATURES
