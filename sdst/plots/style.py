"""Colours and sizes of all figures."""

from __future__ import annotations

INK, MUTED, HAIR = "#1f2933", "#7b8794", "#d9dee4"
CURVE, MOMENT = "#8da2b8", "#d1495b"
SERIES = ("#2f6f8f", "#d1495b", "#e0a030", "#5c8a4c", "#7a5c99", "#7b8794")
WIDTH = 12.0  # inches
DPI = 200
