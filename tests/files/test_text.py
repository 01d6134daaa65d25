"""Text files as other people save them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sdst.config import load_config
from sdst.data.annotations import read_annotations
from sdst.data.jsonl import read_json_lines
from sdst.errors import InputError
from sdst.files.text import is_number, open_file, parse_json, read_json, read_lines, read_text

LINE = '{"qid": 1, "query": "café ☕", "vid": "v", "duration": 10, "relevant_windows": [[0, 2]]}\n'


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_a_byte_order_mark_changes_nothing(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "a.jsonl").write_text(LINE, encoding)
    (tmp_path / "a.json").write_text(LINE, encoding)
    (tmp_path / "a.yaml").write_text("data: {limit: 3}\n", encoding)
    (tmp_path / "a.txt").write_text("a\n\n b \n", encoding)
    assert read_annotations(tmp_path / "a.jsonl")[0].query == "café ☕"
    assert read_json(tmp_path / "a.json")["query"] == "café ☕"
    assert load_config(tmp_path / "a.yaml").data.limit == 3
    assert read_lines(tmp_path / "a.txt") == ["a", "b"]


def test_joined_files_have_a_mark_in_the_middle(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(2 * LINE.encode("utf-8-sig"))
    assert len(list(read_json_lines(path))) == 2


@pytest.mark.parametrize(("encoding", "line"), [("latin-1", 2), ("utf-16", 1), ("utf-16-le", 1)])
def test_another_encoding_is_reported_with_its_line(
    tmp_path: Path, encoding: str, line: int
) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(('{"qid": 1}\n' + LINE.replace("☕", "")).encode(encoding))
    for read in (read_text, lambda p: list(read_json_lines(p))):
        with pytest.raises(InputError, match=rf"^{path}:{line}:"):
            read(path)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[" * 100_000, "nested too deeply"),
        ('{"a": ' * 100_000, "nested too deeply"),
        ("1" * 5000, "digits"),
        ('{"a": 1, "b": {"c": 1, "c": 2}}', "key 'c' appears twice"),
        ('{"a": 1', "not JSON"),
    ],
)
def test_hostile_json_is_one_line(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(InputError, match=reason) as raised:
        read_json(path)
    assert str(raised.value).startswith(f"{path}: ")
    with pytest.raises(InputError, match=rf"^{path}:1: .*{reason}"):
        list(read_json_lines(path))


@pytest.mark.parametrize("value", [10**400, -(10**400), float("nan"), float("inf"), True, "1"])
def test_a_number_is_finite_and_fits_a_float(value: object) -> None:
    assert not is_number(value)
    assert is_number(parse_json("1e3", "x"))


def test_half_a_character_is_replaced_and_counted(tmp_path: Path, caplog) -> None:
    path = tmp_path / "train.jsonl"
    path.write_text(LINE.replace("café ☕", r"the dog \ud83d jumps \ud83d\ude00"))
    [annotation] = read_annotations(path)
    assert annotation.query == "the dog \N{REPLACEMENT CHARACTER} jumps \N{GRINNING FACE}"
    assert caplog.messages == [f"{path}: 1 queries with half a character, which is replaced"]


@pytest.mark.parametrize("name", [r"\ud83d", r"a\u0000b"])
def test_a_name_that_no_file_has_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(LINE.replace('"v"', f'"{name}"'))
    with pytest.raises(InputError, match=rf"^{path}:1: vid is"):
        read_annotations(path)


def test_a_pipe_is_read_and_one_without_a_writer_is_empty(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.write(writing, LINE.encode())
    os.close(writing)
    assert len(read_annotations(f"/dev/fd/{reading}")) == 1
    os.close(reading)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="is empty"):
        read_annotations(tmp_path / "pipe")


@pytest.mark.parametrize("path", ["/dev/zero", "/tmp", "/no/such/file", "/etc/passwd/below"])
def test_what_is_no_file_is_refused(path: str) -> None:
    with pytest.raises(InputError, match=rf"^{path}: "):
        open_file(path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("<!DOCTYPE html><title>403</title>", "web page"),
        ("version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS pointer"),
    ],
)
def test_a_page_and_a_pointer_are_named(tmp_path: Path, content: str, reason: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(content)
    for read in (read_annotations, read_json):
        with pytest.raises(InputError, match=rf"^{path}: is a {reason}"):
            read(path)
