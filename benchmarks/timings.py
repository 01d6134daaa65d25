"""`python -m benchmarks.timings FILE.json`: one table and one figure of a benchmark run.

FILE.json is what `pytest benchmarks/ --benchmark-only --benchmark-json FILE.json` wrote. The table
goes to FILE.md and to the screen, the figure to FILE.png. With `--compare OLD.json` the run is also
compared with an earlier run; the exit code is 1 if anything got slower.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from sdst.errors import InputError, run

Result = dict  # one benchmark of pytest-benchmark's JSON
_HEADER = (
    "benchmark",
    "median",
    "times faster than",
    "GFLOP/s",
    "GB/s",
    "of roofline",
    "peak memory",
    "on",
)
_AGAINST = "against "  # begins the keys of `extra_info` that hold ratios


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; see `python -m benchmarks.timings --help`."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.timings", description=__doc__)
    parser.add_argument("file", type=Path, metavar="FILE.json")
    parser.add_argument("--compare", type=Path, metavar="OLD.json", help="an earlier run")
    parser.add_argument(
        "--tolerance",
        type=float,
        default=0.2,
        help="share by which it may be slower (%(default)s)",
    )
    options = parser.parse_args(arguments)
    results = load(options.file)
    text = table(results)
    options.file.with_suffix(".md").write_text(text)
    draw(results, options.file.with_suffix(".png"))
    print(text, end="")
    if options.compare is None:
        return 0
    found = regressions(load(options.compare), results, options.tolerance)
    for line in found:
        print(f"slower: {line}")
    return 1 if found else 0


def load(file: Path) -> list[Result]:
    """The benchmarks of a JSON file, in the order they ran."""
    try:
        results = json.loads(file.read_text())["benchmarks"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{file} cannot be read as benchmarks ({type(error).__name__}: {error}); write it with "
            "pytest benchmarks/ --benchmark-only --benchmark-json FILE.json"
        ) from error
    if not results:
        raise InputError(f"{file} holds no benchmark")
    return results


def ratios(result: Result) -> dict[str, dict[str, float]]:
    """Comparisons of a benchmark: median, least and greatest ratio, by name."""
    info = result["extra_info"].items()
    return {key.removeprefix(_AGAINST): x for key, x in info if key.startswith(_AGAINST)}


def table(results: list[Result]) -> str:
    """All benchmarks in Markdown, a line each."""
    lines = [f"| {' | '.join(_HEADER)} |", "|---" * len(_HEADER) + "|"]
    lines += [f"| {' | '.join(_cells(result))} |" for result in results]
    return "\n".join(lines) + "\n"


def _cells(result: Result) -> list[str]:
    info, seconds = result["extra_info"], result["stats"]["median"]
    compared = ", ".join(
        f"{name} {x['median']:.1f} ({x['min']:.1f}-{x['max']:.1f})"
        for name, x in ratios(result).items()
    )
    rates = [
        f"{info[key] / seconds / 1e9:.2f}" if key in info else "" for key in ("flops", "bytes")
    ]
    roofline = info.get("roofline")
    share = f"{roofline['percent']:.1f} % ({roofline['bound']})" if roofline else ""
    peaks = info.get("peak bytes", {}).items()
    memory = ", ".join(f"{name} {peak / 2**20:.0f} MiB" for name, peak in peaks)
    where = ", ".join(str(info[key]) for key in ("device", "dtype") if key in info)
    if "threads" in info:
        where += f", {info['threads']} threads"
    return [result["name"], _duration(seconds), compared, *rates, share, memory, where]


def _short(name: str) -> str:
    return name.removeprefix("bench_")


def _duration(seconds: float) -> str:
    for unit, scale in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= scale:
            return f"{seconds / scale:.3g} {unit}"
    return f"{seconds / 1e-6:.3g} us"


def draw(results: list[Result], file: Path) -> None:
    """A line per benchmark: a point for every rival, from its least to its greatest ratio."""
    results = [result for result in results if ratios(result)]
    rivals = list(dict.fromkeys(name for result in results for name in ratios(result)))
    figure = Figure(figsize=(9, 1.2 + 0.26 * len(results)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for number, rival in enumerate(rivals):
        found = [(row, ratios(r)[rival]) for row, r in enumerate(results) if rival in ratios(r)]
        medians = [x["median"] for _, x in found]
        spread = [
            [x["median"] - x["min"] for _, x in found],
            [x["max"] - x["median"] for _, x in found],
        ]
        rows = [row for row, _ in found]
        color, marker = f"C{number % 10}", "os^D"[number // 10 % 4]
        axes.errorbar(medians, rows, xerr=spread, fmt=marker, color=color, alpha=0.8, label=rival)
    axes.set_yticks(range(len(results)), [_short(r["name"]) for r in results], fontsize=8)
    axes.set_ylim(len(results) - 0.4, -0.6)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.axvline(1, color="black", linewidth=1)
    axes.grid(axis="y", linewidth=0.3)
    axes.set_xlabel("times faster than ...: median of interleaved runs, least to greatest")
    figure.legend(loc="outside upper center", ncols=4, fontsize=8)
    figure.savefig(file, dpi=110)


def regressions(old: list[Result], new: list[Result], tolerance: float) -> list[str]:
    """Benchmarks that got slower by more than `tolerance`, a line each.

    A ratio is compared where there is one, as it was taken turn by turn and so depends little on
    what else the machine did; the median time elsewhere.
    """
    found, now = [], {result["fullname"]: result for result in new}
    for before in old:
        name = before["fullname"]
        if name not in now:
            found.append(f"{name} was not run")
            continue
        after = now[name]
        for other, x in ratios(before).items():
            is_now = ratios(after).get(other, {"median": 0.0})["median"]
            if is_now < x["median"] * (1 - tolerance):
                found.append(f"{name} was {x['median']:.2f} times {other}, is {is_now:.2f}")
        was, is_now = before["stats"]["median"], after["stats"]["median"]
        if not ratios(before) and is_now > was * (1 + tolerance):
            found.append(f"{name} took {_duration(was)}, takes {_duration(is_now)}")
    return found


if __name__ == "__main__":
    run(main)
