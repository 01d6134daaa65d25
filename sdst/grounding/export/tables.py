"""Moments in rows."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from typing import Any

from sdst.grounding.export.moment import Moment

COLUMNS = ("video", "query", "rank", "start", "end", "score")


def as_csv(moments: Sequence[Moment]) -> str:
    """A row each under the names of `COLUMNS`; seconds."""
    text = io.StringIO()
    writer: csv.DictWriter[str] = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(map(_row, moments))
    return text.getvalue()


def as_json(moments: Sequence[Moment]) -> str:
    """A list of objects with the keys of `COLUMNS`; seconds."""
    return json.dumps([_row(moment) for moment in moments], indent=1) + "\n"


def _row(moment: Moment) -> dict[str, Any]:
    return {
        "video": moment.name,
        "query": moment.query,
        "rank": moment.rank,
        "start": round(moment.start, 3),
        "end": round(moment.end, 3),
        "score": round(moment.score, 4),
    }
