"""Serve a library of videos: a page for questions in a browser, and a REST interface.

python -m sdst.serve                                        the demo's model, on port 8321
python -m sdst.serve --checkpoint MODEL --videos FOLDER     with existing videos
python -m sdst.serve --zero-shot --backbone NAME            without training
python -m sdst.serve --videos FOLDER --index INDEX          with thousands of videos

Videos are uploaded in the page and kept in the library's folder. Whoever reaches the server may
use it, unless it has a token: in $SDST_TOKEN, or in a file.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

from sdst.data.video_files import by_relative_path, list_videos
from sdst.errors import InputError, run
from sdst.files.text import read_lines
from sdst.grounding.answerer import add_answerer, check_answerer, name_of, open_answerer
from sdst.indexing.clip_index import UNINSTALLED
from sdst.memory import parse_bytes
from sdst.terminal.options import OneLineParser, add_verbosity

PORT = 8321
TOKEN = "SDST_TOKEN"
SHORTEST_TOKEN = 16  # characters
NEEDED = {"fastapi": "FastAPI", "uvicorn": "uvicorn", "prometheus_client": "prometheus-client"}


def make_parser() -> argparse.ArgumentParser:
    """Options of the command."""
    parser = OneLineParser("python -m sdst.serve", __doc__)
    add_verbosity(parser)

    add_answerer(parser)

    library = parser.add_argument_group("what is served")
    add = library.add_argument
    add(
        "--library",
        type=Path,
        default=Path("library"),
        metavar="DIR",
        help="uploaded videos; created where needed (default: %(default)s)",
    )
    add(
        "--videos",
        type=Path,
        nargs="+",
        default=[],
        metavar="PATH",
        help="also these files or folders, which are only read",
    )
    add(
        "--index",
        metavar="DIR",
        help="search the likeliest videos alone, by an index in DIR that is kept current",
    )
    add("--max-upload", default="2GB", metavar="SIZE", help="of a video (default: %(default)s)")

    network = parser.add_argument_group("who may ask")
    add = network.add_argument
    add("--host", default="127.0.0.1", help="address; 0.0.0.0 for all (default: %(default)s)")
    add("--port", type=int, default=PORT, help="0 takes any that is free (default: %(default)s)")
    add(
        "--token-file",
        type=Path,
        metavar="FILE",
        help=f"holds the token that requests must carry; default: ${TOKEN}, or nothing",
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; see `python -m sdst.serve --help`."""
    options = make_parser().parse_args(arguments)
    _check_options(options)
    max_bytes, token = parse_bytes(options.max_upload), _read_token(options.token_file)
    files = by_relative_path(list_videos(options.videos))
    _check_installed(index=options.index is not None)
    return _serve(options, files, max_bytes, token)


def _serve(
    options: argparse.Namespace, files: Mapping[str, Path], max_bytes: int, token: str | None
) -> int:
    from sdst.serving.access import Access, is_loopback
    from sdst.serving.server import bind, serve, url_of

    bound = bind(options.host, options.port)
    local = is_loopback(bound.getsockname()[0])
    if not local and token is None:
        print(
            f"--host {options.host}: whoever reaches this machine may ask, upload and delete; set "
            f"${TOKEN}, or give --token-file FILE",
            file=sys.stderr,
        )

    from sdst.serving.app import create_app
    from sdst.serving.library import Library
    from sdst.serving.library_index import LibraryIndex
    from sdst.serving.service import Service

    library = Library(options.library, files, max_bytes)
    grounder = open_answerer(options)
    index = None if options.index is None else LibraryIndex(options.index, grounder.encoder)
    service = Service(grounder, library, name_of(options), index)
    videos = f"{len(library):,} video{'' if len(library) == 1 else 's'}"
    print(
        f"{url_of(bound)} answers with {service.model}; {videos}, uploads go to {options.library}; "
        "Ctrl-C ends it",
        flush=True,
    )
    serve(create_app(service, Access(token, local)), bound)
    print("ended")
    return 0


def _check_options(options: argparse.Namespace) -> None:
    """Refuse what does not go together before anything is loaded."""
    check_answerer(options)
    if not 0 <= options.port < 2**16:
        raise InputError(f"--port {options.port}: expected 0 to 65535")
    if options.library.exists() and not options.library.is_dir():
        raise InputError(f"--library {options.library}: is a file; expected a folder")


def _read_token(file: Path | None) -> str | None:
    """The token that requests must carry; None: they need none."""
    if file is not None:
        lines = read_lines(file)
        token, source = (lines[0].strip() if lines else ""), f"--token-file {file}"
    else:
        token, source = os.environ.get(TOKEN, "").strip(), f"${TOKEN}"
        if not token:
            return None
    if len(token) < SHORTEST_TOKEN or not token.isascii() or not token.isprintable():
        raise InputError(
            f"{source}: expected {SHORTEST_TOKEN} or more characters of ASCII, of "
            "openssl rand -hex 32 say"
        )
    return token


def _check_installed(index: bool) -> None:
    missing = [name for module, name in NEEDED.items() if find_spec(module) is None]
    if missing:
        raise InputError(f"serving needs {', '.join(missing)}; pip install 'sdst[serve]'")
    if index and find_spec("lancedb") is None:
        raise InputError(UNINSTALLED)


if __name__ == "__main__":
    run(main)
