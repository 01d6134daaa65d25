"""Queries of a demo scene, and what is true about them: windows, relevant clips, ratings.

A query is a description and an action; every moment of the scene that fits it is listed, so nothing
unlisted ever matches.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sdst.demo.scenes import SPLITS, Look, Moment, Scene, Stay, trace, unseen
from sdst.demo.sentences import Description, describe, query

RATERS = 3
_LONGEST = 0.6  # share of the video that the windows of one query may cover


@dataclass(frozen=True)
class Question:
    """A query with its windows [start, end) in whole seconds, in order, apart from each other."""

    description: Description
    action: str
    query: str
    windows: tuple[tuple[int, int], ...]


def ask(scene: Scene, count: int, seed: int) -> list[Question]:
    """Up to `count` different questions about `scene`.

    Every moment is asked for before one is asked for twice (in other words); in the test split the
    combinations never seen in training come first.
    """
    rng = np.random.default_rng([seed, SPLITS.index(scene.split), scene.seed])
    moments = [(stay.look, moment.action) for stay in scene.stays for moment in stay.moments]
    moments = [moments[i] for i in rng.permutation(len(moments))]
    moments.sort(key=lambda pair: not unseen(*pair))
    questions: dict[str, Question] = {}
    for round_ in range(3):
        for look, action in moments:
            question = _question(scene, look, action, rng)
            if question is None or len(questions) == count:
                continue
            known = [(q.description, q.action) for q in questions.values()]
            if round_ > 0 or (question.description, question.action) not in known:
                questions.setdefault(question.query.lower().rstrip("."), question)
    return list(questions.values())


def matching(scene: Scene, description: Description, action: str) -> list[tuple[Stay, Moment]]:
    """Every moment of `scene` in which an object of that description does `action`."""
    return [
        (stay, moment)
        for stay in scene.stays
        if description.matches(stay.look)
        for moment in stay.moments
        if moment.action == action
    ]


def relevant_clips(question: Question) -> list[int]:
    """Indices of the one-second clips inside the question's windows."""
    return [clip for start, end in question.windows for clip in range(start, end)]


def ratings(scene: Scene, question: Question, seed: int) -> list[list[int]]:
    """Three ratings 0-4 for every relevant clip.

    The middle of a moment rates higher than its ends, a large and plainly visible object higher
    than a small or fading one; raters differ in severity and a little by chance.
    """
    rng = np.random.default_rng([seed, scene.seed, sum(question.query.encode())])
    clips = np.array(relevant_clips(question))
    worth = np.zeros(len(clips))
    for stay, moment in matching(scene, question.description, question.action):
        middle = (clips + 0.5 - moment.start) / (moment.end - moment.start)
        inside = (middle > 0) & (middle < 1)
        seen = trace(stay, clips + 0.5, scene.duration)
        value = 2.8 + 1.4 * np.clip(1 - np.abs(2 * middle - 1), 0, 1) ** 0.5
        value += 1.5 * (seen.diameter - 0.25) - 0.4 * (seen.opacity < 0.5)
        worth = np.maximum(worth, np.where(inside, value, 0))
    worth += max(0.0, 3.8 - worth.max())
    severity = rng.permutation((-0.5, 0.0, 0.5))
    marks = worth[:, None] + severity + rng.normal(0, 0.25, (len(clips), RATERS))
    return np.clip(marks.round(), 1, 4).astype(int).tolist()


def _question(scene: Scene, look: Look, action: str, rng: np.random.Generator) -> Question | None:
    """One question about `look` doing `action`; None where its windows fill most of the video."""
    description = describe(look, action, rng)
    found = matching(scene, description, action)
    windows: list[tuple[int, int]] = []
    for start, end in sorted((moment.start, moment.end) for _, moment in found):
        if windows and start <= windows[-1][1]:
            windows[-1] = (windows[-1][0], max(end, windows[-1][1]))
        else:
            windows.append((start, end))
    if sum(end - start for start, end in windows) > _LONGEST * scene.duration:
        return None
    return Question(description, action, query(description, action, rng), tuple(windows))
