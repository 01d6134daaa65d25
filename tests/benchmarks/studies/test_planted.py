"""The planted comparison's command line becomes configurations that load."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.studies.planted import KINDS, RECIPE, VARIANTS, Budget, grid_of, options_of
from sdst.config import Config, load_config


def config_of(variant: str = "sdst", **changes: object) -> Config:
    budget = Budget(annotations=Path("a"), output=Path("o"), **{"features": None, **changes})
    return load_config(RECIPE, [*options_of(budget, seed=3), *VARIANTS[variant][1]])


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_differs_from_the_recipe_and_loads(variant: str) -> None:
    assert (config_of(variant) == config_of()) == (variant == "sdst")


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_plants_features_of_its_own(kind: str) -> None:
    config = config_of(kind=kind)
    assert config.data.planted
    assert (config.planted == config_of().planted) == (kind == "linear")


def test_the_study_has_the_variants_configurations() -> None:
    budget = Budget(annotations=Path("a"), features=None, output=Path("o"))
    grid = grid_of(budget, ["sdst", "paper"])
    assert [grid.folder(row) for row in grid.rows] == ["sdst", "paper"]
    for name, row in zip(("sdst", "paper"), grid.rows, strict=True):
        options = [*grid.of_row(row), "--train.seed", "3"]
        assert load_config(RECIPE, options) == config_of(name)


def test_feature_files_are_read_where_they_are() -> None:
    config = config_of(features=Path("files"), kind="order")
    assert config.data.root == "files"
    assert not config.data.planted


def test_the_papers_block_is_what_the_defaults_build() -> None:
    config = config_of("paper")
    assert config.model.reads == "dense"
    assert config.model.refinement == "logit"
    assert config.train.offsets_lr == 1.0
    assert config.loss.outside == 0.0
    assert (config.predict.snap, config.predict.smooth) == (None, False)
    assert config.predict.nms == "none"


def test_dropout_is_the_recipes_or_none() -> None:
    with_dropout, without = config_of(dropout=True).model, config_of().model
    assert (with_dropout.projection_dropout, with_dropout.dropout) == (0.5, 0.1)
    assert (without.projection_dropout, without.dropout, without.drop_path) == (0, 0, 0)
