"""The documentation as the tests read it: pages, fenced blocks, links to tests."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"

_FENCE = re.compile(
    r"^(?P<indent> *)```(?P<language>\w+)(?: title=\"(?P<title>[^\"]+)\")?[^\n]*\n(?P<text>.*?)^(?P=indent)```$", re.M | re.S
)


@dataclass(frozen=True)
class Block:
    """One fenced block of a page."""

    page: str
    line: int
    language: str
    title: str | None
    text: str


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page, in order."""
    text = page.read_text()
    found = []
    for match in _FENCE.finditer(text):
        line = text.count("\n", 0, match.start()) + 1
        indent = len(match["indent"])
        lines = [row[indent:] for row in match["text"].splitlines()]
        name = page.relative_to(ROOT).as_posix()
        found.append(Block(name, line, match["language"], match["title"], "\n".join(lines) + "\n"))
    return found


def pages() -> list[Path]:
    """Every page of the documentation, and the documents at the root."""
    return [*sorted(DOCS.rglob("*.md")), *sorted(ROOT.glob("*.md"))]
