"""Show a dataset: counts, lengths and positions of its moments, and missing files.

python -m sdst.inspect --annotations A.jsonl ...   files alone
python -m sdst.inspect --root DIR [--config NAME]  a dataset's folder, with its videos and features
python -m sdst.inspect                             the demo

With --plot OUT.png also as a figure, with some queries on their videos' time lines.
"""

from __future__ import annotations

import logging
from argparse import ArgumentParser, Namespace
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from os.path import lexists
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sdst.data.annotations import Annotation, read_annotations
from sdst.data.store.reader import INDEX, FeatureSource, FeatureStore
from sdst.data.video_files import dataset_videos
from sdst.errors import InputError, run
from sdst.evaluation.retrieval import LENGTH_RANGES
from sdst.terminal.options import OneLineParser, add_verbosity

if TYPE_CHECKING:
    from sdst.config import Config

NAMED = 10  # of the missing videos or queries; the rest is counted


@dataclass(frozen=True)
class Split:
    """The queries of a split, and what was repaired in its file, by kind."""

    annotations: list[Annotation]
    repairs: Counter[str]


def main(arguments: Sequence[str] | None = None) -> None:
    """The command; see `python -m sdst.inspect --help`."""
    options, overrides = _parse(arguments)
    with _repairs_unlogged():
        if options.annotations:
            show_files(options)
        else:
            show_folder(options, overrides)


@contextmanager
def _repairs_unlogged() -> Iterator[None]:
    """Keep repairs of annotations out of the log: the table has them."""
    logger = logging.getLogger("sdst.data")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def show_files(options: Namespace) -> None:
    """Print and draw what annotation files say."""
    paths = options.annotations
    unique = len({path.stem for path in paths}) == len(paths)
    files = {path.stem if unique else str(path): path for path in paths}
    splits = read(files, options.clip_length)
    show_splits(splits)
    draw(options, splits, options.clip_length, {})


def show_folder(options: Namespace, overrides: list[str]) -> None:
    """Print and draw what a dataset's folder holds."""
    from sdst.config import load_config

    if options.root is not None:
        overrides += ["--data.root", str(options.root)]
    if options.clip_length is not None:
        overrides += ["--data.clip_length", str(options.clip_length)]
    config = load_config(options.config or ("custom" if options.root else "demo"), overrides)

    from sdst.sources.dataset import dataset_root  # brings PyTorch along

    root = dataset_root(config)
    files = {name: root / file for name, file in config.data.annotations.items()}
    there = {name: file for name, file in files.items() if lexists(file)}
    if not there:
        raise InputError(
            f"{root}: none of {', '.join(config.data.annotations.values())} is there; "
            "--config says what the dataset's annotations are called"
        )
    splits = read(there, config.data.clip_length)
    show_splits(splits)
    for name in files:
        if name not in there:
            print(f"{name}: not there, expected {files[name]}")
    annotations = {name: split.annotations for name, split in splits.items()}
    for line in coverage(config, root, annotations):
        print(line)
    videos = {}
    if options.plot is not None and (root / "videos").is_dir():
        videos = dataset_videos(
            root / "videos", {a.vid for found in annotations.values() for a in found}
        )
    draw(options, splits, config.data.clip_length, videos)


def coverage(config: Config, root: Path, splits: dict[str, list[Annotation]]) -> list[str]:
    """A line for the videos, and one for every set of features: how many exist, which are missing.

    Nothing is encoded or packed, and nothing missing is an error.
    """
    annotations = [a for split in splits.values() for a in split]
    if config.data.features != "encode":
        return _published(config, root, splits, annotations)
    folder, vids = root / "videos", {a.vid for a in annotations}
    videos = dataset_videos(folder, vids) if folder.is_dir() else {}
    stores = sorted(index.parent for index in root.glob(f"features/*/{INDEX}"))
    return [
        f"{folder}: {_found('videos', vids, videos)}",
        *(_describe_store(store, annotations) for store in stores),
        *([] if stores else ["no features yet; sdst.extract or the first training makes them"]),
    ]


def _published(
    config: Config,
    root: Path,
    splits: dict[str, list[Annotation]],
    annotations: Sequence[Annotation],
) -> list[str]:
    from sdst.sources.files import open_files, packed_path  # brings PyTorch along

    packed = packed_path(config, root)
    if packed.exists():
        return [_describe_store(packed, annotations)]
    lenient = replace(config, data=replace(config.data, allow_missing=True))
    try:
        _, files = open_files(lenient, root, splits)
    except InputError as error:
        return [f"no features: {error}"]
    return [_describe(files, annotations), "not packed yet; sdst.convert does it"]


def _describe_store(path: Path, annotations: Sequence[Annotation]) -> str:
    try:
        store = FeatureStore(path)
    except InputError as error:
        return f"no features: {error}"
    store.verify()
    return _describe(store, annotations)


def _describe(source: FeatureSource, annotations: Sequence[Annotation]) -> str:
    shapes = source.shapes
    videos = _found("videos", {a.vid for a in annotations}, source.video_ids)
    queries = _found("queries", {a.qid for a in annotations}, source.query_ids)
    return (
        f"{source.path}: features of {videos}; {queries}; {shapes['layers']} layers, "
        f"{shapes['tokens_per_frame']} x {shapes['video_width']} per clip, "
        f"{shapes['text_width']} per word"
    )


def _found(kind: str, annotated: Collection, there: Collection) -> str:
    missing = sorted(set(annotated).difference(there), key=str)
    count = f"{len(annotated) - len(missing):,} of {len(annotated):,} {kind}"
    if not missing:
        return count
    named = ", ".join(map(str, missing[:NAMED]))
    return f"{count} (missing: {named}{', ...' if len(missing) > NAMED else ''})"


def show_splits(splits: Mapping[str, Split]) -> None:
    """Print the table of figures and what videos the splits share."""
    print(format_summary({name: summarize(split) for name, split in splits.items()}))
    for line in shared_videos(splits):
        print(line)


def draw(
    options: Namespace,
    splits: Mapping[str, Split],
    clip_length: float | None,
    videos: Mapping[str, Path],
) -> None:
    """Write the figure of --plot."""
    if options.plot is None:
        return
    from sdst.plots import plot_dataset  # matplotlib takes a moment, too

    annotations = {name: split.annotations for name, split in splits.items()}
    examples = choose_examples(annotations, options.examples)
    plot_dataset(annotations, examples, videos, clip_length, options.plot)
    print(f"figure: {options.plot}")


def read(files: Mapping[str, Path], clip_length: float | None) -> dict[str, Split]:
    """The annotations of every file, by name; a fault is an `InputError` that names the file."""
    splits = {}
    for name, file in files.items():
        repairs: Counter[str] = Counter()
        splits[name] = Split(read_annotations(file, repairs, clip_length), repairs)
    return splits


def summarize(split: Split) -> dict[str, str]:
    """Figures of a split, by what they say."""
    annotations = split.annotations
    durations = {a.vid: a.duration for a in annotations}
    labelled = [a for a in annotations if a.windows is not None]
    rows = {
        "queries": f"{len(annotations):,}",
        "videos": f"{len(durations):,}",
        "hours of video": f"{sum(durations.values()) / 3600:,.1f}",
        "video length (s)": _spread(durations.values()),
        "words per query": _spread(len(a.query.split()) for a in annotations),
    }
    if unlabelled := sum(not a.has_truth for a in annotations):
        rows["queries without windows"] = f"{unlabelled:,}"
    if labelled:
        rows |= _summarize_moments(labelled)
    if rated := sum(a.saliency is not None for a in annotations):
        rows["queries with rated clips"] = f"{rated:,}"
    if by_clip := [a for a in annotations if a.labels is not None]:
        rows |= _summarize_labels(by_clip)
    return rows | {f"repaired: {kind}": f"{count:,}" for kind, count in split.repairs.items()}


def _summarize_moments(annotations: Sequence[Annotation]) -> dict[str, str]:
    windows = [(window, a.duration) for a in annotations for window in a.windows or ()]
    lengths = np.array([end - start for (start, end), _ in windows])
    shares = [100 * (end - start) / duration for (start, end), duration in windows]
    rows = {
        "moments": f"{len(lengths):,}",
        "windows per query (mean)": f"{len(lengths) / len(annotations):.2f}",
        "moment length (s)": _spread(lengths),
        "moment / video length (%)": _spread(shares),
    }
    for name in ("short", "middle", "long"):
        above, up_to = LENGTH_RANGES[name]
        share = np.mean((lengths > above) & (lengths <= up_to))
        rows[f"moments of {above}-{up_to} s, {name} (%)"] = f"{100 * share:.1f}"
    return rows


def _summarize_labels(annotations: Sequence[Annotation]) -> dict[str, str]:
    topics = Counter(a.domain for a in annotations)
    labels = [a.labels for a in annotations if a.labels is not None]
    return {
        "queries with labelled clips": f"{len(annotations):,}",
        "clips per video": _spread(map(len, labels)),
        "annotators": _spread(len(clips[0]) for clips in labels),
        "mean label": _spread(float(np.mean(clips)) for clips in labels),
        **{f"videos of {topic}": f"{count:,}" for topic, count in sorted(topics.items())},
    }


def _spread(values: Iterable[float]) -> str:
    """Median (least - most)."""
    values = np.fromiter(values, float)
    return f"{np.median(values):.4g} ({values.min():.3g}-{values.max():.4g})"


def format_summary(columns: Mapping[str, Mapping[str, str]]) -> str:
    """A table with one column for each split; what only some have is `-` in the others."""
    labels = list(dict.fromkeys(label for rows in columns.values() for label in rows))
    table = [("median (least-most)", list(columns))]
    table += [(label, [rows.get(label, "-") for rows in columns.values()]) for label in labels]
    width = max(len(label) for label, _ in table)
    widths = [max(map(len, column)) for column in zip(*(cells for _, cells in table), strict=True)]
    return "\n".join(
        "  ".join([f"{label:<{width}}", *map(str.rjust, cells, widths)]) for label, cells in table
    )


def shared_videos(splits: Mapping[str, Split]) -> list[str]:
    """A line for every two splits that have videos in common, which no test should."""
    lines, seen = [], {}
    for name, split in splits.items():
        vids = {a.vid for a in split.annotations}
        lines += [
            f"{name}: {len(vids & others):,} of its videos are in {other}, too"
            for other, others in seen.items()
            if vids & others
        ]
        seen[name] = vids
    return lines


def choose_examples(splits: Mapping[str, Sequence[Annotation]], count: int) -> list[Annotation]:
    """`count` labelled queries of the last split that has some, spread evenly over its file."""
    labelled = [[a for a in found if a.has_truth] for found in splits.values()]
    last = next((found for found in reversed(labelled) if found), [])
    picked = np.linspace(0, len(last) - 1, min(count, len(last))).round().astype(int)
    return [last[i] for i in picked]


def make_parser() -> ArgumentParser:
    """Options of the command."""
    parser = OneLineParser("python -m sdst.inspect", __doc__)
    parser.add_argument("--annotations", nargs="+", type=Path, metavar="A", help="JSON lines")
    parser.add_argument("--root", type=Path, metavar="DIR", help="the dataset's folder")
    parser.add_argument("--config", help="its dataset: a name or file, as in sdst.train")
    parser.add_argument("--clip-length", type=float, metavar="S", help="seconds per clip")
    parser.add_argument("--plot", type=Path, metavar="OUT", help="draw a figure as well")
    parser.add_argument("--examples", type=int, default=5, help="queries in it (default 5)")
    add_verbosity(parser)
    return parser


def _parse(arguments: Sequence[str] | None) -> tuple[Namespace, list[str]]:
    options, overrides = make_parser().parse_known_args(arguments)
    if options.annotations and (options.root or options.config or overrides):
        raise InputError("give either --annotations or a dataset by --root and --config, not both")
    for option, value, least in (
        ("--clip-length", options.clip_length, 0),
        ("--examples", options.examples, -1),
    ):
        if value is not None and not value > least:
            raise InputError(f"{option} is {value:g}, expected more than {least}")
    if options.plot is not None:
        from sdst.plots import check_picture_name

        check_picture_name(options.plot)
    return options, overrides


if __name__ == "__main__":
    run(main)
