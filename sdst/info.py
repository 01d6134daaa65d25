"""`python -m sdst.info`: what is installed, what was built, and what serves each op here."""

from __future__ import annotations

import argparse
import platform
from collections.abc import Sequence

import sdst
from sdst.config import load_config, packaged_configs
from sdst.errors import InputError, run


def main(arguments: Sequence[str] | None = None) -> None:
    """The command; see `python -m sdst.info --help`."""
    parser = argparse.ArgumentParser(prog="python -m sdst.info", description=__doc__)
    parser.add_argument(
        "--config",
        help="show the parameters of this config's model instead: a file, or one of "
        + ", ".join(packaged_configs()),
    )
    config = parser.parse_args(arguments).config
    if config is not None:
        show_parameters(config)
        return
    show_installation()


def show_installation() -> None:
    """Print versions, devices, native code, and a table for every op."""
    from sdst.installation import devices, native_code, op_choice, packages
    from sdst.kernels import ImplementationError
    from sdst.kernels.registry import OPS

    try:
        choices = {op: op_choice(op) for op in OPS}
    except ImplementationError as error:
        raise InputError(f"SDST_IMPLEMENTATION: {error}") from error
    show("versions", {"sdst": sdst.__version__, "python": platform.python_version(), **packages()})
    show("devices", devices())
    show("native code", native_code())
    for op, rows in choices.items():
        show(op, rows)


def show(title: str, rows: dict[str, str]) -> None:
    """Print a titled, aligned table."""
    width = max(18, *(len(name) for name in rows))
    print(title)
    for name, value in rows.items():
        print(f"  {name:{width}}  {value}")


def show_parameters(name: str) -> None:
    """Trainable parameters of a config's model, by part."""
    config = load_config(name).model
    if problems := config.problems():
        raise InputError(f"config {name}: {'; '.join(problems)}; it depends on the features")
    from sdst.model import SDST, parameter_count

    model = SDST(config)
    counts = parameter_count(model)
    rows = {part: f"{count:>12,}" for part, count in counts.items()}
    show(f"trainable parameters of {name}", {**rows, "total": f"{sum(counts.values()):>12,}"})


if __name__ == "__main__":
    run(main)
