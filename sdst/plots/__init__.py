"""Figures: answers along a video's time line, a training run, a dataset."""

from sdst.plots.answers import plot_groundings
from sdst.plots.dataset import plot_dataset
from sdst.plots.saving import check_picture_name
from sdst.plots.training import plot_curves, plot_reliability

__all__ = [
    "check_picture_name",
    "plot_curves",
    "plot_dataset",
    "plot_groundings",
    "plot_reliability",
]
