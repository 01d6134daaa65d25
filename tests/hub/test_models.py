"""Models by name: a path is never asked a hub for, and a repository gives back what was pushed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from sdst import SDST, Grounder
from sdst.errors import InputError
from sdst.hub.models import find_model
from tests.hub_server import Hub, running
from tests.untrained import QUERIES


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub of this test alone, which the client asks in place of the public one."""
    monkeypatch.chdir(tmp_path)
    with running() as server:
        template = f"{server.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        yield server


def test_what_is_pushed_answers_the_same_from_the_hub(
    hub: Hub, grounder: Grounder, film: Path, tmp_path: Path
) -> None:
    address = grounder.push_to_hub("me/moments", token="hf_x", license="mit")
    assert address.startswith(f"{hub.url}/me/moments/commit/")
    assert "license: mit" in hub.repositories["me/moments"]["README.md"].decode()
    fetched = Grounder.from_pretrained("me/moments", device="cpu")
    assert fetched.ground(film, QUERIES) == grounder.ground(film, QUERIES)
    assert SDST.from_pretrained("me/moments").config == grounder.config.model


def test_what_was_fetched_answers_without_the_hub(
    hub: Hub, grounder: Grounder, film: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grounder.push_to_hub("me/moments", token="hf_x")
    expected = Grounder("me/moments", device="cpu").ground(film, QUERIES)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert Grounder("me/moments", device="cpu").ground(film, QUERIES) == expected


@pytest.mark.parametrize(
    "name", ["./me/moments", "/me/moments", "moments", "me/moments/model", "runs/moments", "~/m"]
)
def test_a_path_is_not_asked_a_hub_for(hub: Hub, tmp_path: Path, name: str) -> None:
    (tmp_path / "runs").mkdir()
    with pytest.raises(InputError, match=f"checkpoint {name}: no such folder; expected"):
        find_model(name)
    with pytest.raises(InputError, match="no such folder; expected"):
        find_model(Path("me/moments"))
    assert not hub.asked


def test_a_file_is_no_model(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(InputError, match=r"model\.safetensors: is a file; expected a model's fold"):
        find_model("model.safetensors")


def test_a_repository_that_is_not_there_is_reported_in_one_line(hub: Hub) -> None:
    with pytest.raises(InputError, match=r"checkpoint me/none: no such folder here, and no .*404"):
        Grounder("me/none")


def test_a_repository_of_something_else_is_reported_for_what_it_lacks(hub: Hub) -> None:
    hub.repositories["me/other"] = {"config.json": b"{}", "model.safetensors": b""}
    with pytest.raises(InputError, match=r"grounding\.json not found"):
        Grounder("me/other")


def test_without_a_hub_a_name_is_reported_in_one_line(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:1")
    with pytest.raises(InputError, match=r"me/none: no such folder here, .* cannot be reached"):
        Grounder("me/none")
