"""`python -m benchmarks.studies.study GRID`: variants of a recipe, several seeds each, in a table.

GRID is a YAML file, or the name of one in `benchmarks/studies/grids`:

    recipe: qvhighlights_internvideo2     # a packaged config or a file
    options: {train.epochs: 10}           # what all rows change in it
    published: qvhighlights-val           # figures of others to stand below, if any
    rows:                                 # what each row changes; the first is the baseline
      the recipe: {}
      reads the stream alone: {model.reads: dense}

Every row is trained with every seed in a folder of `--output`. A finished run is read and not
repeated, one that was stopped resumes, so the same command continues a study. `table.md`,
`table.csv` and `table.tex` hold mean and standard deviation over seeds, and how far each row is
from the first: the paired bootstrap of `benchmarks.studies.bootstrap`.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from benchmarks.studies.grid import GRIDS, Grid, read_grid
from benchmarks.studies.runs import Run, study_run
from benchmarks.studies.tables import Row, Study, as_csv, as_latex, as_markdown, published
from sdst.config import load_config
from sdst.errors import InputError, run
from sdst.evaluation.protocols import PROTOCOLS
from sdst.files.publish import replace_text


@dataclass(frozen=True)
class Plan:
    """The part of a grid that is run.

    Args:
        output: folder of the runs and the tables.
        seeds: of every row.
        options: `--section.key value` pairs that all rows change beside the grid's.
        videos: test videos of the demo that runs are evaluated on; None: the run's own split.
        several: evaluate the queries with several moments alone.
    """

    output: Path
    seeds: range
    options: tuple[str, ...] = ()
    videos: int | None = None
    several: bool = False


def run_study(grid: Grid, plan: Plan) -> Study:
    """Train what is not there yet, row by row, and write the tables after every row.

    Raises:
        InputError: a row is no configuration, or is evaluated on other queries than the first, or a
            folder holds a run of other settings.
    """
    configs = {
        name: load_config(grid.recipe, grid.of_row(name, plan.options)) for name in grid.rows
    }
    data = next(iter(configs.values())).data
    if plan.videos is not None and data.dataset != "demo":
        raise InputError(f"--videos: are the demo's, and {grid.recipe} trains on other data")
    protocol = PROTOCOLS[data.protocol]
    of_others = published(grid.published) if grid.published else []
    rows: list[Row] = []
    found: Study | None = None
    for name in grid.rows:
        runs: list[Run] = []
        for seed in plan.seeds:
            options = [*grid.of_row(name, plan.options), "--train.seed", str(seed)]
            folder = plan.output / f"{grid.folder(name)}-seed{seed}"
            runs.append(
                study_run(
                    folder, grid.recipe, options, protocol.headline, plan.videos, plan.several
                )
            )
        rows.append(Row(name, runs))
        if any(x.qids != rows[0].runs[0].qids for x in runs):
            raise InputError(
                f"{name}: was evaluated on other queries than {rows[0].name}; rows may not differ "
                "in their data"
            )
        found = Study(
            "; ".join([protocol.title, runs[0].title, *data.reservations()]),
            protocol.headline,
            rows,
            of_others,
        )
        for suffix, render in (("md", as_markdown), ("csv", as_csv), ("tex", as_latex)):
            replace_text(plan.output / f"table.{suffix}", render(found))
    assert found is not None  # a grid has a row
    return found


def main() -> None:
    """Run a grid and print its table in Markdown."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.studies.study",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="further options, --section.key value, hold for all rows",
    )
    add = parser.add_argument
    add("grid", help=f"YAML file, or one of {', '.join(sorted(GRIDS))}")
    add("--output", type=Path, help="default: runs/<name of the grid>")
    add("--seeds", type=int, default=3, help="how many (default: %(default)s)")
    add("--first-seed", type=int, default=0)
    add("--videos", type=int, help="evaluate the demo on so many test videos of its kind")
    add("--several", action="store_true", help="evaluate queries with several moments alone")
    options, overrides = parser.parse_known_args()
    if options.seeds < 1:
        raise InputError(f"--seeds is {options.seeds}, expected at least 1")
    grid = read_grid(options.grid)
    plan = Plan(
        options.output or Path("runs") / Path(options.grid).stem,
        range(options.first_seed, options.first_seed + options.seeds),
        tuple(overrides),
        options.videos,
        options.several,
    )
    print(as_markdown(run_study(grid, plan)), end="")
    print(f"in {plan.output}: table.md, table.csv, table.tex")


if __name__ == "__main__":
    run(main)
