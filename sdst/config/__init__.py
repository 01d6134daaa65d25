"""The typed configuration of an experiment: one YAML file, overridable key by key."""

from sdst.config.loading import (
    annotated,
    config_keys,
    config_parser,
    load_config,
    load_with_origins,
    parse_config,
    save_config,
)
from sdst.config.schema import (
    BACKBONES,
    FROM_FEATURES,
    LEFT_OPEN,
    NOT_LEARNED,
    PRECISIONS,
    SECTIONS,
    Config,
    DataConfig,
    PredictConfig,
    TrainConfig,
    as_dict,
)

__all__ = [
    "BACKBONES",
    "FROM_FEATURES",
    "LEFT_OPEN",
    "NOT_LEARNED",
    "PRECISIONS",
    "SECTIONS",
    "Config",
    "DataConfig",
    "PredictConfig",
    "TrainConfig",
    "annotated",
    "as_dict",
    "config_keys",
    "config_parser",
    "load_config",
    "load_with_origins",
    "parse_config",
    "save_config",
]
