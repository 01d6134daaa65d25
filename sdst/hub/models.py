"""Models by name: folders of this machine, those of the package, and repositories of a hub."""

from __future__ import annotations

import re
from pathlib import Path

from sdst.errors import InputError, one_line

ZOO = Path(__file__).parents[1] / "zoo"  # models of the package, a folder each
DEMO_MODEL = "demo"  # the first of them
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
# All that a model folder has; others' files of a repository are left where they are.
_PATTERNS = ["*.json", "*.safetensors", "README.md"]


def packaged_models() -> list[str]:
    """Names of the models that come with the package."""
    return sorted(path.name for path in ZOO.iterdir() if path.is_dir()) if ZOO.is_dir() else []


def find_model(checkpoint: str | Path) -> Path:
    """The folder of a model, fetched where it is a hub's.

    Args:
        checkpoint: a folder; else, as a string, one of `packaged_models`, or `ORG/REPO` where no
            folder `ORG` makes it a path.

    Raises:
        InputError: there is no such model, or it cannot be fetched.
    """
    path, name = Path(checkpoint).expanduser(), str(checkpoint)
    if path.is_dir():
        return path
    if isinstance(checkpoint, str) and name in packaged_models():
        return ZOO / name
    if path.exists():
        raise InputError(f"checkpoint {checkpoint}: is a file; expected a model's folder")
    if isinstance(checkpoint, str) and _REPOSITORY.fullmatch(name) and not path.parent.exists():
        return _fetched(name)
    raise InputError(
        f"checkpoint {checkpoint}: no such folder; expected the --output folder of a training "
        f"run, its model/, ORG/REPO of a hub, or a packaged model ({', '.join(packaged_models())})"
    )


def push(folder: Path, repository: str, private: bool, token: str | None) -> str:
    """Upload the files of `folder` to a repository, which is created where there is none.

    Returns:
        The address of the commit.

    Raises:
        InputError: the hub refuses, or cannot be reached.
    """
    from huggingface_hub import HfApi

    from sdst.hub.network import downloads, hub

    api = HfApi(token=token, library_name="sdst")
    with downloads() as reachable:
        if not reachable:
            raise InputError(f"{repository}: cannot be pushed, {hub()} cannot be reached")
        try:
            made = api.create_repo(repository, private=private, exist_ok=True)
            commit = api.upload_folder(folder_path=folder, repo_id=made.repo_id)
        except Exception as error:  # of the hub, of its client and of HTTP, each their own
            raise InputError(
                f"{repository}: {hub()} refuses it ({one_line(error)}); check the name and log in "
                "with `hf auth login`, or give a token"
            ) from error
    return commit.commit_url


def _fetched(repository: str) -> Path:
    """The files of a repository in the hub's cache, brought up to date where the hub answers."""
    from huggingface_hub import snapshot_download

    from sdst.hub.network import downloads, hub

    with downloads() as reachable:
        try:
            return Path(snapshot_download(repository, allow_patterns=_PATTERNS))
        except Exception as error:  # as in `push`
            reason = one_line(error) if reachable else f"{hub()} cannot be reached"
            raise InputError(
                f"checkpoint {repository}: no such folder here, and no such model from the hub "
                f"({reason})"
            ) from error
