"""Times as people write them."""

from __future__ import annotations

import pytest

from sdst.importing.times import has_decimal_commas, in_seconds, parse_time


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("12", 12),
        (12.25, 12.25),
        (" 83.5 s", 83.5),
        ("83,5", 83.5),
        ("0,125", 0.125),
        (".5", 0.5),
        ("1e1", 10),
        ("1:23", 83),
        ("75:30", 4530),
        ("1:02:03.250", 3723.25),
        ("00:01:02,500", 62.5),
        ("-3", -3),
    ],
)
def test_a_time_is_read(text: str | float, seconds: float) -> None:
    assert parse_time(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("1:75", "60 minutes or seconds"),
        ("1:60:00", "60 minutes or seconds"),
        ("01:02:03:04", "counts frames"),
        ("00:01:02;12", "counts frames"),
        ("1,234", "may be 1.234 or 1234"),
        ("noon", "'noon' is no time"),
        ("1.2.3", "no time"),
        ("", "is empty"),
        ("nan", "no time"),
        (float("inf"), "no time"),
    ],
)
def test_what_is_no_time_or_may_be_two_says_so(text: str | float, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse_time(text)


def test_other_times_of_a_file_decide_about_a_comma() -> None:
    assert has_decimal_commas(["1,234", "1,5"])
    assert not has_decimal_commas(["1,234", "1:30"])
    assert not has_decimal_commas(["1,234", "1,5", "2.5"])
    assert parse_time("1,234", comma=True) == 1.234


def test_frames_are_counted_from_one_and_the_last_is_part_of_a_moment() -> None:
    assert in_seconds(1, "frames", 25, is_end=False) == 0
    assert in_seconds(25, "frames", 25, is_end=True) == 1
    assert in_seconds(1500, "ms", 25, is_end=True) == 1.5
