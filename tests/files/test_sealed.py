"""Files are checked against their checksums when they are read."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from sdst.errors import InputError
from sdst.files.sealed import load_tensors, read_sealed, save_tensors, seal

CONTENT = {"name": "snow \u2603", "number": 0.1, "nested": {"list": [1, None, True]}}


@pytest.mark.parametrize("indent", [None, 2])
def test_json_comes_back(tmp_path: Path, indent: int | None) -> None:
    (tmp_path / "file").write_text(seal(CONTENT, indent) + "\n")
    assert read_sealed(tmp_path / "file", "again") == CONTENT


def test_no_changed_byte_of_json_passes_for_other_content(tmp_path: Path) -> None:
    file = tmp_path / "file"
    written = seal(CONTENT).encode()
    for place in range(len(written)):
        changed = bytearray(written)
        changed[place] ^= 1
        file.write_bytes(changed)
        try:
            found = read_sealed(file, "again")
        except InputError as error:
            assert "again" in str(error) or "UTF-8" in str(error)
            continue
        assert {key: found.get(key) for key in CONTENT} == CONTENT


def test_json_of_an_earlier_version_has_no_checksum_and_is_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_text('{"a": 1}')
    assert read_sealed(tmp_path / "file", "again") == {"a": 1}


def tensors() -> dict[str, torch.Tensor]:
    return {
        "half": torch.randn(3, 4).bfloat16(),
        "scalar": torch.tensor(2.0),
        "none": torch.empty(0, 2),
        "turned": torch.arange(6).view(2, 3).T,
    }


def test_tensors_come_back_with_their_metadata(tmp_path: Path) -> None:
    expected = tensors()
    save_tensors(tmp_path / "file", expected, config="{}")
    found, metadata = load_tensors(tmp_path / "file", "again")
    assert metadata == {"config": "{}"}
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_no_changed_byte_of_tensors_passes_for_other_content(tmp_path: Path) -> None:
    file = tmp_path / "file"
    expected = tensors()
    save_tensors(file, expected, config="{}")
    written = file.read_bytes()
    for place in range(len(written)):
        changed = bytearray(written)
        changed[place] ^= 1
        file.write_bytes(changed)
        try:
            found, _ = load_tensors(file, "again")
        except InputError:
            continue
        assert found.keys() == expected.keys(), place
        assert all(torch.equal(found[name], expected[name]) for name in expected), place


@pytest.mark.parametrize("content", [b"", b"\x80\x02}q\x00.", b"\xff" * 100])
def test_what_is_no_safetensors_file_is_reported_in_one_line(
    tmp_path: Path, content: bytes
) -> None:
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(InputError) as error:
        load_tensors(tmp_path / "file", "take another")
    assert "\n" not in str(error.value) and str(tmp_path / "file") in str(error.value)


def test_a_header_of_another_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(save({"a": torch.zeros(1)}, {"sdst": "[1]"}))
    with pytest.raises(InputError, match=r"damaged .*again"):
        load_tensors(tmp_path / "file", "again")


@pytest.mark.parametrize(("mode", "reason"), [(0, "Permission denied"), (None, "No such file")])
def test_tensors_that_may_not_be_read_are_not_called_missing(
    tmp_path: Path, mode: int | None, reason: str
) -> None:
    file = tmp_path / "file"
    if mode is not None:
        save_tensors(file, tensors())
        file.chmod(mode)
        if os.access(file, os.R_OK):
            pytest.skip("this user may read everything")
    with pytest.raises(InputError, match=reason):
        load_tensors(file, "again")
