"""ELAN's annotation files (.eaf): tiers of texts that are aligned with slots of time.

Milliseconds. An annotation that refers to another one has its times. The format is described in
H. Sloetjes and P. Wittenburg's schema, EAFv3.0.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import unquote
from xml.etree.ElementTree import Element

from sdst.errors import InputError
from sdst.importing.located import LINE, parse_xml
from sdst.importing.rows import Doubt, Row
from sdst.terminal.suggest import did_you_mean

_INTEGER = re.compile(r"\s*-?\d{1,18}\s*")


def read_elan(text: str, path: Path, columns: Mapping[str, str]) -> Iterator[Row | Doubt]:
    """The annotations of all tiers, or of the one that `columns` names for the sentence.

    Raises:
        InputError: it is no such file, or has no such tier.
    """
    root = parse_xml(text, path)
    if root.tag != "ANNOTATION_DOCUMENT":
        raise InputError(f"{path}: <{root.tag}>; expected ELAN's <ANNOTATION_DOCUMENT>")
    videos = _videos(root) or (path.stem,)
    spans = _spans(root)
    for tier in _tiers(root, columns.get("sentence"), path):
        for element in tier:
            annotation = next(iter(element), None)
            if annotation is None:
                continue
            where = f"{path}:{annotation.get(LINE)}"
            start, end = spans.get(annotation.get("ANNOTATION_ID"), (None, None))
            if start is None or end is None:
                yield Doubt(where, f"tier {tier.get('TIER_ID')}: an annotation without times")
                continue
            sentence = annotation.findtext("ANNOTATION_VALUE") or ""
            yield Row(where, videos, sentence, start, end, "ms", "ms")


def _videos(root: Element) -> tuple[str, ...]:
    """The files that the document says it is of, by their names."""
    named = [
        unquote(media.get(key, ""))
        for media in root.iter("MEDIA_DESCRIPTOR")
        for key in ("RELATIVE_MEDIA_URL", "MEDIA_URL")
    ]
    return tuple(dict.fromkeys(name for name in named if name))


def _tiers(root: Element, chosen: str | None, path: Path) -> list[Element]:
    tiers = {tier.get("TIER_ID", ""): tier for tier in root.iter("TIER")}
    if chosen is None:
        return list(tiers.values())
    if chosen not in tiers:
        raise InputError(
            f"--columns sentence={chosen}: no such tier in {path}, which has "
            f"{', '.join(tiers) or 'none'}{did_you_mean(chosen, tiers)}"
        )
    return [tiers[chosen]]


def _spans(root: Element) -> dict[str | None, tuple[int | None, ...]]:
    """Start and end of every annotation on the clock of the first medium, by its id."""
    media = next(root.iter("MEDIA_DESCRIPTOR"), None)
    origin = _number(media.get("TIME_ORIGIN")) if media is not None else None
    times = {
        slot.get("TIME_SLOT_ID"): None if value is None else value + (origin or 0)
        for slot in root.iter("TIME_SLOT")
        for value in [_number(slot.get("TIME_VALUE"))]
    }
    spans = {
        x.get("ANNOTATION_ID"): tuple(times.get(x.get(f"TIME_SLOT_REF{i}")) for i in (1, 2))
        for x in root.iter("ALIGNABLE_ANNOTATION")
    }
    parents = {x.get("ANNOTATION_ID"): x.get("ANNOTATION_REF") for x in root.iter("REF_ANNOTATION")}
    for child in parents:
        parent, seen = parents[child], {child}
        while parent in parents and parent not in seen:
            seen.add(parent)
            parent = parents[parent]
        spans[child] = spans.get(parent, (None, None))
    return spans


def _number(text: str | None) -> int | None:
    return int(text) if text and _INTEGER.fullmatch(text) else None
