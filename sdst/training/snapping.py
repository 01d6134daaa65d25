"""`predict.snap: auto`: the validation split decides whether the ends of moments snap."""

from __future__ import annotations

from sdst.evaluation.report import figures_of
from sdst.training.selection import selected_figure
from sdst.training.trainer import Trainer

REACH = 0.15  # widths; see benchmarks/RESULTS.md


def decide_snap(trainer: Trainer) -> None:
    """Turn `auto` in the configuration of a finished run into REACH or None.

    Snapping needs saliency that falls where moments end, which not all data teach. Every process
    evaluates all predictions, so that all decide alike.
    """
    predict, validation = trainer.config.predict, trainer.validation
    if predict.snap != "auto":
        return
    scores = {}
    for predict.snap in (None, REACH):
        report = trainer.report(trainer.predict(validation), validation.annotations)
        scores[predict.snap] = selected_figure(figures_of(report), trainer.config.train.select_by)
    predict.snap = REACH if scores[REACH] > scores[None] else None
    trainer.say(
        f"predict.snap {predict.snap}: val {trainer.config.train.select_by} "
        f"{scores[REACH]:.1f} with moments snapped to saliency, {scores[None]:.1f} without"
    )
    if trainer.accelerator.is_main_process:
        trainer.folder.decide(snap=predict.snap)
