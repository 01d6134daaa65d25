"""`python -m benchmarks.studies.planted`: side-tuners compared on QVHighlights' timing alone.

The recipe `qvhighlights_internvideo2` in InternVideo2's shapes, either on features planted in the
real annotations (`--annotations DIR` of `highlight_{train,val}_release.jsonl`; see
`sdst.data.planted` for the kinds) or on feature files in the layout of SDST's release (`--features
DIR`, a folder as `--data.root` takes it). They are packed first, so that an epoch is the tuner's
time alone. Every variant has the same data, budget and seeds, and no dropout unless `--dropout`
says so: the figures compare the rows with each other, and with nothing else.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.studies.grid import Grid
from benchmarks.studies.study import Plan, run_study
from benchmarks.studies.tables import as_markdown
from sdst.config import load_config
from sdst.convert import convert
from sdst.errors import run
from sdst.sources.files import packed_path

RECIPE = "qvhighlights_internvideo2"

PAPER = [
    *("--model.reads", "dense", "--model.refinement", "logit"),
    *("--train.offsets_lr", "1", "--loss.outside", "0"),
    *("--predict.snap", "null", "--predict.smooth", "false", "--predict.nms", "none"),
]
VARIANTS = {
    "sdst": ("the recipe: reads saliency, relative moves, slow offsets led back", []),
    "dense": ("reads the stream alone", ["--model.reads", "dense"]),
    "logit": ("moves by logits", ["--model.refinement", "logit"]),
    "free": ("points outside cost nothing", ["--loss.outside", "0"]),
    "full-rate": ("offsets at the full rate", ["--train.offsets_lr", "1"]),
    "paper": ("the paper's block: none of these", PAPER),
    "deformable": ("deformable cross-attention", ["--model.attention", "deformable"]),
    "cross": ("standard cross-attention", ["--model.attention", "cross"]),
    "sparse": ("context sparse", ["--model.context", "sparse"]),
    "mild": ("schedule 2 2 1 1 1", ["--model.schedule", "[2,2,1,1,1]"]),
    "alone": ("queries do not attend to each other", ["--model.query_attention", "false"]),
    "left-out": ("query dropout 0.25", ["--loss.query_dropout", "0.25"]),
    "both": (
        "neither attention among queries nor all of them",
        ["--model.query_attention", "false", "--loss.query_dropout", "0.25"],
    ),
    "coarse": ("schedule 8 4 2 1 1", ["--model.schedule", "[8,4,2,1,1]"]),
}

KINDS = {
    "linear": [],
    "order": ["--planted.order", "true"],
    "binding": ["--planted.binding", "true"],
    "nonlinear": ["--planted.nonlinear", "1"],
}


@dataclass(frozen=True)
class Budget:
    """Settings of all variants.

    Args:
        annotations: folder of `highlight_{train,val}_release.jsonl`; None where features are files.
        features: folder of feature files; None where they are planted.
        output: folder of data and runs, one for each budget.
        kind: of planted features, one of KINDS.
        queries: the first of each split; 0 takes all.
        noise: `planted.noise`.
        dropout: the recipe's dropout instead of none.
    """

    annotations: Path | None
    features: Path | None
    output: Path
    kind: str = "linear"
    queries: int = 800
    epochs: int = 5
    batch: int = 16
    width: int = 64
    lr: float = 2e-3
    noise: float = 0.5
    dropout: bool = False


def pack(budget: Budget) -> None:
    """Make the planted features of the budget's queries, or pack its files, once."""
    if budget.features is None:
        root = data_root(budget)
        root.mkdir(parents=True, exist_ok=True)
        for split in ("train", "val"):
            assert budget.annotations is not None  # planted features are made of them
            shutil.copy(budget.annotations / f"highlight_{split}_release.jsonl", root)
    config = load_config(RECIPE, options_of(budget, seed=0))
    if not packed_path(config, data_root(budget)).exists():
        convert(config)


def data_root(budget: Budget) -> Path:
    """The dataset's folder."""
    return budget.features or budget.output / "data"


def options_of(budget: Budget, seed: int) -> list[str]:
    """Overrides that fit the recipe to the budget and its features."""
    options: dict[str, object] = {
        "data.root": data_root(budget),
        "model.width": budget.width,
        "train.epochs": budget.epochs,
        "train.batch_size": budget.batch,
        "train.lr": budget.lr,
        "train.warmup_steps": 30,
        "train.lr_schedule": "cosine",
        "train.validate_every": budget.epochs,
        "train.seed": seed,
    }
    if not budget.dropout:  # too few epochs to overfit
        options |= dict.fromkeys(
            ("model.projection_dropout", "model.dropout", "model.drop_path"), 0
        )
    if budget.queries:
        options["data.limit"] = budget.queries
    if budget.features is None:
        options |= {"data.planted": "true", "planted.noise": budget.noise}
    given = [part for key, value in options.items() for part in (f"--{key}", str(value))]
    return [*given, *(KINDS[budget.kind] if budget.features is None else [])]


def grid_of(budget: Budget, variants: Iterable[str]) -> Grid:
    """The study of these variants, the first of them its baseline."""
    shared = _by_key(options_of(budget, seed=0))
    del shared["train.seed"]
    chosen = {name: VARIANTS[name] for name in variants}
    rows = {f"{name}: {label}": _by_key(changes) for name, (label, changes) in chosen.items()}
    return Grid(RECIPE, rows, shared)


def _by_key(options: list[str]) -> dict[str, object]:
    """`--section.key value` pairs as a grid has them."""
    pairs = zip(options[::2], options[1::2], strict=True)
    return {option.removeprefix("--"): value for option, value in pairs}


def main() -> None:
    """Train the variants with all seeds, print the table in Markdown and leave it in `--output`."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.studies.planted", description=__doc__
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--annotations", type=Path, metavar="DIR")
    source.add_argument("--features", type=Path, metavar="DIR")
    parser.add_argument(
        "--output", type=Path, default=Path("runs/planted"), help="a folder of its own per budget"
    )
    parser.add_argument("--kind", choices=KINDS, default=Budget.kind)
    for name in ("queries", "epochs", "batch", "width", "lr", "noise"):
        default = getattr(Budget, name)
        parser.add_argument(f"--{name}", type=type(default), default=default)
    parser.add_argument("--dropout", action="store_true", help="the recipe's")
    parser.add_argument("--several", action="store_true", help="queries with several moments alone")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--seeds", type=int, default=3, help="how many, from --first-seed on")
    parser.add_argument("--first-seed", type=int, default=0)
    options = vars(parser.parse_args())
    seeds = range(first := options.pop("first_seed"), first + options.pop("seeds"))
    variants, several = options.pop("variants"), options.pop("several")
    budget = Budget(**options)
    pack(budget)
    plan = Plan(budget.output, seeds, several=several)
    print(as_markdown(run_study(grid_of(budget, variants), plan)), end="")


if __name__ == "__main__":
    run(main)
