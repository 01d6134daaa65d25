"""Pictures are written whole, in the format that their name asks for."""

from __future__ import annotations

import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from PIL import Image

from sdst.data.annotations import Annotation
from sdst.errors import InputError
from sdst.evaluation.protocols import PROTOCOLS
from sdst.evaluation.report import labelled
from sdst.grounding.answers import Grounding
from sdst.plots import (
    check_picture_name,
    plot_curves,
    plot_dataset,
    plot_groundings,
    plot_reliability,
)
from sdst.plots.fonts import families_for

HISTORY = [
    {
        "epoch": epoch,
        "step": 10 * epoch,
        "losses": {"loss": 3.0 / epoch, "iou": 1.0 / epoch},
        "val": {"R1@0.5": 10.0 * epoch, "mAP": 5.0 * epoch},
    }
    for epoch in (1, 2, 3)
]


def answer(query: str = "the red square spins", windows: int = 3) -> Grounding:
    rows = [[4.0 * i, 4.0 * i + 6.0, 0.9 / (i + 1)] for i in range(windows)]
    return Grounding(query, rows, np.sin(np.arange(30) / 5), 1.0, 30.0)


def test_the_time_line_is_drawn(film, tmp_path):
    plot_groundings(film, [answer()], tmp_path / "out.png")
    assert Image.open(tmp_path / "out.png").width > 1500


def test_every_query_adds_a_row(film, tmp_path):
    plot_groundings(film, [answer()], tmp_path / "one.png")
    plot_groundings(film, [answer(), answer("a blue circle grows")], tmp_path / "two.png")
    one, two = (Image.open(tmp_path / name).height for name in ("one.png", "two.png"))
    assert two > one + 300


@pytest.mark.parametrize(
    "case",
    [
        answer(windows=0),
        answer("many words " * 40),
        answer("ball & $price$ <b>, 50%_"),
        Grounding("the whole video", [[0.0, 30.0, 0.0]], np.zeros(30), 1.0, 30.0),
        Grounding("one clip", [[0.0, 0.8, 1.0]], np.ones(1), 2.0, 0.8),
    ],
    ids=["no window", "long", "markup", "flat", "one clip"],
)
def test_odd_answers_are_drawn(film, tmp_path, case):
    plot_groundings(film, [case], tmp_path / "out.png")
    assert (tmp_path / "out.png").stat().st_size > 0


def tiny_font(path, family: str, characters: str) -> None:
    """A TrueType font whose every character is a filled square."""
    glyphs = [".notdef", *(f"u{ord(c):05X}" for c in characters)]
    builder = FontBuilder(1000)
    builder.setupGlyphOrder(glyphs)
    builder.setupCharacterMap({ord(c): f"u{ord(c):05X}" for c in characters})
    pen = TTGlyphPen(None)
    pen.moveTo((0, 0))
    for corner in ((0, 800), (800, 800), (800, 0)):
        pen.lineTo(corner)
    pen.closePath()
    square = pen.glyph()
    builder.setupGlyf(dict.fromkeys(glyphs, square))
    builder.setupHorizontalMetrics(dict.fromkeys(glyphs, (900, 0)))
    builder.setupHorizontalHeader(ascent=800, descent=0)
    builder.setupNameTable({"familyName": family, "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    path.parent.mkdir(parents=True, exist_ok=True)
    builder.save(path)


CHINESE = "一个\U00020000\U000f0001"  # the last two are in no font of the machines that test


def test_a_font_of_the_system_that_has_the_characters_is_taken(
    film, tmp_path, monkeypatch, caplog, recwarn
):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    tiny_font(tmp_path / "fonts" / "squares.ttf", "Test Squares", CHINESE)
    families, missing = families_for(f"a {CHINESE}")
    assert (families[0], families[-1], missing) == ("DejaVu Sans", "Test Squares", "")
    plot_groundings(film, [answer(f"a {CHINESE} jumps")], tmp_path / "out.png")
    assert not caplog.messages and not recwarn.list


def test_characters_that_no_font_has_are_named_in_one_line(film, tmp_path, caplog, recwarn):
    plot_groundings(film, [answer("\U000f0002\U000f0003 \ud83d"), answer()], tmp_path / "out.png")
    assert caplog.messages == [
        f"{tmp_path / 'out.png'}: no font here has \U000f0002 \U000f0003, drawn as boxes; install "
        "one, such as Noto Sans"
    ]
    assert not recwarn.list


def test_a_line_of_wide_characters_is_cut_in_time(film, tmp_path):
    plot_groundings(film, [answer("a" * 105)], tmp_path / "one.png")
    plot_groundings(film, [answer("一" * 105)], tmp_path / "two.png")
    one, two = (Image.open(tmp_path / name).height for name in ("one.png", "two.png"))
    assert two > one


def test_the_ending_names_the_format(film, tmp_path):
    plot_groundings(film, [answer()], tmp_path / "out.pdf")
    assert (tmp_path / "out.pdf").read_bytes().startswith(b"%PDF")


def test_curves_of_a_run_are_drawn(tmp_path):
    plot_curves(HISTORY, tmp_path / "curves.png")
    assert Image.open(tmp_path / "curves.png").width > 1500


def test_curves_of_a_single_validation_are_drawn(tmp_path):
    plot_curves(HISTORY[:1], tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 0


@pytest.mark.parametrize(
    ("protocol", "figures", "legend"),
    [
        ("custom", {"R1@0.5": 1.0, "MR-full-mAP": 2.0, "MR-short-mAP": 3.0}, ["R1@0.5", "mAP"]),
        ("ego4d-nlq", {"R5@0.5": 1.0, "mIoU": 2.0}, ["R5@0.5", "mIoU"]),
        ("tvsum", {"mAP": 50.0, "BK": 40.0}, ["HD mAP"]),
        ("qvhighlights", {"HL-min-VeryGood-Hit1": 60.0}, ["HIT@1 VeryGood"]),
    ],
)
def test_curves_are_of_the_headline_as_far_as_there_are_figures(
    tmp_path, monkeypatch, protocol, figures, legend
):
    drawn = []
    monkeypatch.setattr("sdst.plots.training.save", lambda figure, out: drawn.append(figure))
    val = labelled(figures, PROTOCOLS[protocol].headline)
    plot_curves([{"epoch": 1, "losses": {"loss": 1.0}, "val": val}], tmp_path / "curves.png")
    right = drawn[0].axes[1]
    assert [text.get_text() for text in right.get_legend().get_texts()] == legend
    assert len(right.lines) == len(legend)


def query(qid: int, **more) -> Annotation:
    return Annotation(qid, "the red square spins", "film", 30.0, **more)


RATED = query(1, windows=((4.0, 8.0),), clip_ids=(2, 3), saliency=((1, 2, 3), (4, 4, 4)))
ODD = [
    query(2, windows=tuple((2.0 * i, 2.0 * i + 1) for i in range(14))),
    query(3, windows=((0.0, 30.0),)),
    Annotation(4, "many $words_ " * 40, "other", 30.0, ((29.5, 30.0),)),
]


def test_a_dataset_is_drawn_every_example_adding_a_row(film, tmp_path):
    splits, videos = {"train": [RATED, *ODD], "test": [query(5)]}, {"film": film}
    plot_dataset(splits, [RATED], videos, 2.0, tmp_path / "one.png")
    plot_dataset(splits, [RATED, *ODD], videos, 2.0, tmp_path / "four.png")
    one, four = (Image.open(tmp_path / name).height for name in ("one.png", "four.png"))
    assert four > one + 3 * 150


def test_a_dataset_without_labels_and_videos_is_drawn(tmp_path):
    plot_dataset({"test": [query(5)]}, [], {}, None, tmp_path / "out.png")
    assert Image.open(tmp_path / "out.png").width > 1500


def test_no_temporary_file_stays(tmp_path):
    plot_curves(HISTORY, tmp_path / "curves.png")
    assert [path.name for path in tmp_path.iterdir()] == ["curves.png"]


@pytest.mark.parametrize("name", ["out", "out.xyz", "out.mp4"])
def test_names_of_no_picture_are_refused(name):
    with pytest.raises(InputError, match="no picture format"):
        check_picture_name(name)


def test_reliability_has_a_panel_for_each_probability(tmp_path):
    bins = [[0.1, 0.2, 0.5], [0.95, 1.0, 0.5]]
    one = {"presence": {"error": 7.5, "bins": bins}}
    plot_reliability(one, tmp_path / "one.png")
    plot_reliability({**one, "windows": one["presence"]}, tmp_path / "two.png")
    sizes = [Image.open(tmp_path / name).width for name in ("one.png", "two.png")]
    assert sizes[1] == pytest.approx(2 * sizes[0], abs=2)
