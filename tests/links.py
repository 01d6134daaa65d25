"""Links of the repository's Markdown files.

    python -m tests.links      asks for every external address, which needs a network

Prints a line for each address that does not answer: `broken` where a server refuses it, `unchecked`
where none is reached. The exit code is 1 if one is broken. Links between files are tried by
tests/test_links.py, and within docs/ by `mkdocs build --strict`, too.
"""

from __future__ import annotations

import re
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)(?:\s[^)]*)?\)")
HEADING = re.compile(r"^#+\s+(.*?)\s*#*$", re.MULTILINE)
# Files besides Markdown whose addresses a reader may follow.
OTHERS = ("CITATION.cff", "benchmarks/studies/published.yaml")
ADDRESS = re.compile(r"https?://[^\s)>\"'`,]+")
EXAMPLES = re.compile(r"https?://(host|127\.0\.0\.1|localhost)\b|\.\.\.|[{}]")
REFUSED = {404, 410}


def pages() -> list[Path]:
    """The Markdown files under version control."""
    listed = subprocess.run(
        ["git", "ls-files", "*.md"], cwd=ROOT, check=True, capture_output=True, text=True
    )
    return [ROOT / name for name in listed.stdout.split()]


def links(page: Path) -> list[str]:
    """The targets of a page's links and pictures."""
    return LINK.findall(FENCE.sub("", page.read_text(encoding="utf-8")))


def anchors(page: Path) -> set[str]:
    """The names of a page's headings, as GitHub and mkdocs make them."""
    found = set()
    for heading in HEADING.findall(FENCE.sub("", page.read_text(encoding="utf-8"))):
        text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading)
        words = re.sub(r"[^\w\s-]", "", text.lower())
        found |= {words.replace(" ", "-"), re.sub(r"[-\s]+", "-", words).strip("-")}
    return found


def fault(page: Path, link: str) -> str | None:
    """Why a link to a file or a heading leads nowhere; None for a good or an external one."""
    if re.match(r"\w+:", link):
        return None
    name, _, anchor = link.partition("#")
    target = page.parent / name if name else page
    if not target.exists():
        return "no such file"
    if anchor and target.suffix == ".md" and anchor not in anchors(target):
        return "no such heading"
    return None


def addresses() -> Iterator[str]:
    """External addresses of all pages, each once."""
    files = [*pages(), *(ROOT / name for name in OTHERS)]
    found = {
        address.rstrip(".:;")
        for file in files
        for address in ADDRESS.findall(FENCE.sub("", file.read_text(encoding="utf-8")))
    }
    return (address for address in sorted(found) if not EXAMPLES.search(address))


def answer(address: str) -> str | None:
    """`broken` or `unchecked`, with why; None where a server has the page."""
    request = urllib.request.Request(address, headers={"User-Agent": "Mozilla/5.0 (links of sdst)"})
    try:
        with urllib.request.urlopen(request, timeout=20):
            return None
    except urllib.error.HTTPError as error:
        return f"{'broken' if error.code in REFUSED else 'unchecked'}: {error}"
    except OSError as error:
        return f"unchecked: {error}"


def main() -> int:
    found = {address: answer(address) for address in addresses()}
    for address, wrong in found.items():
        if wrong is not None:
            print(f"{address}: {wrong}")
    print(f"{len(found)} addresses")
    return int(any(wrong is not None and wrong.startswith("broken") for wrong in found.values()))


if __name__ == "__main__":
    sys.exit(main())
