"""Log lines for people begin with a stable event name, so that they can be searched for and alerted on."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import durable_adapter

SOURCE = Path(durable_adapter.__file__).parent
#: The event, then facts, then what is said of it.
LINE = re.compile(r"[a-z]+(_[a-z]+)+( [a-z_]+=%[-.\d]*[a-z])+")
LEVELS = ("debug", "info", "warning", "error", "exception", "critical")


def lines(package: str) -> Iterator[tuple[str, str]]:
    """Where something is logged, and its text."""
    room = SOURCE / package
    for path in [room] if room.is_file() else sorted(room.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.Call(func=ast.Attribute(value=ast.Name("logger"), attr=level), args=[text, *_]) if level in LEVELS:
                    yield f"{path.name}:{node.lineno}", text.value if isinstance(text, ast.Constant) else ast.unparse(text)


@pytest.mark.parametrize("package", ["celery", "inline.py", "recovery", "rq", "runtime", "testing"])
def test_each_begins_with_the_name_of_its_event(package: str) -> None:
    found = [(where, text) for where, text in lines(package) if text != "%s %s"]  # the names of alerts are data
    assert found
    assert [each for each in found if not LINE.fullmatch(each[1])] == []
