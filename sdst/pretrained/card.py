"""The model card: a `Description` in words, for whoever meets the model elsewhere."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from sdst.pretrained.description import Description

TAGS = ("video-temporal-grounding", "moment-retrieval", "highlight-detection")
PAPER = "[Sparse-Dense Side-Tuner](https://arxiv.org/abs/2507.07744)"
DEMO = (
    "**A demonstration.** It was trained on rendered videos of coloured shapes that move; it knows "
    "these shapes, their colours and motions, and nothing else."
)


def model_card(description: Description) -> str:
    """Markdown with the header that model hubs read."""
    sections = {
        "": _opening(description),
        "Use": _use(description),
        "Data": _table(_data(description)),
        "Figures": _figures(description),
        "Intended use and limits": _limits(description),
        "Training": _table(_training(description)),
        "Licence": _licence(description),
    }
    body = [f"## {title}\n\n{text}" if title else text for title, text in sections.items()]
    return "\n\n".join([_header(description), *body]) + "\n"


def _header(description: Description) -> str:
    licence = [f"license: {description.license}"] if description.license else []
    tags = [f"- {tag}" for tag in TAGS]
    return "\n".join(["---", "library_name: sdst", *licence, "tags:", *tags, "---"])


def _opening(description: Description) -> str:
    data = description.config.data
    lines = [
        "# Moments of a video by a sentence",
        f"A {PAPER} on the frozen backbone `{data.backbone}`: it finds the moments that a sentence "
        "describes, in seconds, and rates how well each clip fits.",
    ]
    if data.dataset == "demo":
        lines.append(DEMO)
    if found := data.reservations():
        lines.append(f"**No benchmark result:** {' and '.join(found)}.")
    return "\n\n".join(lines)


def _use(description: Description) -> str:
    named = (
        ""
        if description.config.data.features == "encode"
        else ', backbone="WHAT MADE ITS FEATURES"'
    )
    return "\n".join(
        [
            "```python",
            "from sdst import Grounder",
            "",
            f'grounder = Grounder("FOLDER or ORG/REPO"{named})',
            '[answer] = grounder.ground("film.mp4", "a sentence")',
            "start, end, score = answer.windows[0]  # seconds, best first",
            "```",
        ]
    )


def _data(description: Description) -> Mapping[str, Any]:
    data, features = description.config.data, description.features
    encoded = data.features == "encode"
    return {
        "dataset": "demo" if data.dataset == "demo" else data.root,
        "annotations": features.get("queries"),
        "backbone" if encoded else "features": data.backbone if encoded else data.features,
        "fingerprint of the backbone": features.get("fingerprint"),
        "preprocessing": _pairs(features.get("preprocessing")),
        "clip length": f"{data.clip_length:g} s",
        "frames per clip": data.frames_per_clip if encoded else None,
    }


def _figures(description: Description) -> str:
    results = description.results
    if results is None:
        return "None yet: the training has not come to its end."
    columns = results["figures"]
    labels = {label: None for figures in columns.values() for label in figures}
    head = f"| {results['split']} split | {' | '.join(columns)} |"
    rule = "|---" * (len(columns) + 1) + "|"
    rows = [
        f"| {label} | {' | '.join(_figure(figures.get(label)) for figures in columns.values())} |"
        for label in labels
    ]
    seed = description.config.train.seed
    cut = ", interrupted" if results["interrupted"] else ""
    said = (
        f"{results['title']}; one run, seed {seed}{cut}. `zero-shot` is the frozen backbone alone."
        if "zero-shot" in columns
        else f"{results['title']}; one run, seed {seed}{cut}."
    )
    return "\n".join([said, "", head, rule, *rows])


def _limits(description: Description) -> str:
    data = description.config.data
    if data.dataset == "demo":
        return (
            "To try sdst without training. Answers about videos other than the demo's mean nothing."
        )
    return (
        "For videos and sentences like those of the training data. Scores rank the moments of a "
        "video that has what is asked for. Others than the figures above were not measured."
    )


def _training(description: Description) -> Mapping[str, Any]:
    origin, results = description.provenance or {}, description.results or {}
    machine = origin.get("machine", {})
    parameters = results.get("parameters")
    return {
        "command": _code(origin.get("command")),
        "epochs": results.get("epochs"),
        "weights of epoch": results.get("best_epoch"),
        "seed": description.config.train.seed,
        "trainable parameters": None if parameters is None else f"{parameters:,}",
        "sdst": _joined(origin.get("version"), origin.get("commit")),
        "PyTorch, Python": _joined(origin.get("torch"), origin.get("python")),
        "date": origin.get("date"),
        "machine": _joined(
            machine.get("processor"), *machine.get("gpus", ()), machine.get("system")
        ),
    }


def _licence(description: Description) -> str:
    if description.license:
        return f"Weights: {description.license}."
    return "Not stated by who trained it. The backbone and the data have licences of their own."


def _table(rows: Mapping[str, Any]) -> str:
    return "\n".join(
        ["| | |", "|---|---|"]
        + [f"| {name} | {_cell(value)} |" for name, value in rows.items() if value is not None]
    )


def _cell(value: object) -> str:
    return " ".join(str(value).split()).replace("|", "\\|")


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _code(text: str | None) -> str | None:
    return None if text is None else f"`{text}`"


def _pairs(values: Mapping[str, object] | None) -> str | None:
    return ", ".join(f"{name} {value}" for name, value in (values or {}).items()) or None


def _joined(*values: object) -> str | None:
    return ", ".join(str(value) for value in _given(values)) or None


def _given(values: Iterable[object]) -> list[object]:
    return [value for value in values if value is not None]
