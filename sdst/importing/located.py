"""JSON and XML whose parts know their lines."""

from __future__ import annotations

import re
from bisect import bisect
from pathlib import Path
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from sdst.errors import InputError, disguise

LINE = "\0line"  # no attribute of XML can have this name
_BRACE = re.compile(r'"(?:[^"\\]|\\.)*"|\{', re.DOTALL)


def object_lines(document: object, text: str) -> dict[int, int]:
    """The line on which each object of a JSON document begins, by its `id`.

    Args:
        document: what `text` stands for, no key of it twice.
    """
    ends = [match.start() for match in re.finditer("\n", text)]
    braces = (match.start() for match in _BRACE.finditer(text) if match[0] == "{")
    lines: dict[int, int] = {}
    waiting = [document]
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict):
            lines[id(node)] = bisect(ends, next(braces)) + 1
            waiting += reversed(node.values())
        elif isinstance(node, list):
            waiting += reversed(node)
    return lines


def parse_xml(text: str, path: Path) -> Element:
    """The root of the XML file at `path`; every element has its line as the attribute `LINE`.

    Raises:
        InputError: it is no XML, or declares entities, which may be of any size.
    """
    builder, parser = TreeBuilder(), expat.ParserCreate()

    def start(tag: str, attributes: dict[str, str]) -> None:
        builder.start(tag, {**attributes, LINE: str(parser.CurrentLineNumber)})

    def refuse(*_: object) -> None:
        raise InputError(f"{path}:{parser.CurrentLineNumber}: declares an entity; remove it")

    parser.StartElementHandler, parser.EndElementHandler = start, builder.end
    parser.CharacterDataHandler, parser.EntityDeclHandler = builder.data, refuse
    try:
        # Bytes of text are UTF-8, whatever encoding the file states.
        parser.Parse(re.sub(r"^\s*<\?xml.*?\?>", "", text).encode(), True)
    except expat.ExpatError as error:
        found = disguise(path) or f"not XML: {expat.ErrorString(error.code)}"
        raise InputError(f"{path}:{error.lineno}: {found}") from None
    return builder.close()
