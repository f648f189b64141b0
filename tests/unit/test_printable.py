"""Text from outside is made safe in one place: for a terminal, for a log line, for a shell."""

from __future__ import annotations

import io
import json
import logging
import subprocess

import pytest

from durable_adapter import printable
from durable_adapter.printable import json_text, line, lines, shell_word

#: A clipboard write (OSC 52), a title, a cursor that goes up, C1's own CSI, an override of writing direction, a NUL.
HOSTILE = "\x1b]52;c;cm0gLXJm\x07 \x1b]0;t\x9c \x1b[1A \x9b2J \u202egnihton\u202c \x00 \x7f \u2066x\u2069 \u200f"


def is_safe(text: str) -> bool:
    """Whether a terminal shows a text as it stands; by Unicode's own categories, not by the list under test."""
    import unicodedata

    return not any(unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") or unicodedata.bidirectional(c) in BIDI for c in text)


BIDI = {"RLE", "LRE", "RLO", "LRO", "PDF", "RLI", "LRI", "FSI", "PDI"}


def test_everything_that_moves_a_cursor_or_turns_text_is_escaped():
    assert not is_safe(HOSTILE)
    assert is_safe(line(HOSTILE))
    assert line("a\x1b[2Jb\nc") == "a\\x1b[2Jb\\nc"


@pytest.mark.parametrize("text", ["order-42", "Ärger um 19,90 €", "注文", "a'b\"c", "naïve 👍"])
def test_what_is_no_danger_is_left_as_it_is(text: str):
    assert line(text) == lines(text) == text


def test_a_further_line_from_outside_cannot_pass_for_one_of_ours():
    assert lines("declined\nnothing is wrong").split("\n") == ["declined", "  nothing is wrong"]


def test_json_keeps_what_it_escapes():
    value = {"error": HOSTILE + "\ud800 \U000e0041 é"}
    told = json_text(json.dumps(value, ensure_ascii=False))
    assert is_safe(told)
    assert "é" in told
    assert json.loads(told) == value


@pytest.mark.parametrize(
    "word",
    ["order-42", "-rf", "it's", 'say "x"', "a b\tc", "two\nlines", "$(touch x)`id`;&|", "!!", "\x1b[2J", "ü\u202e!'\\", "*"],
)
@pytest.mark.parametrize("shell", ["bash"])
def test_a_word_is_one_word_in_a_shell_and_nothing_else(word: str, shell: str):
    told = shell_word(word)
    assert is_safe(told)
    done = subprocess.run([shell, "-c", f"printf '%s|' -- {told}"], capture_output=True, check=True)
    assert done.stdout.decode() == f"--|{word}|"


def logged(*args: object, exc_info: bool = False) -> str:
    """What a handler of an application's own writes for a record of the library's logger."""
    out = io.StringIO()
    handler = logging.StreamHandler(out)
    logger = logging.getLogger("durable_adapter")
    logger.addHandler(handler)
    try:
        logger.error(*args, exc_info=exc_info)  # type: ignore[arg-type]
    finally:
        logger.removeHandler(handler)
    return out.getvalue()


def test_a_log_record_is_safe_whatever_it_is_given():
    told = logged("step %s of %d is held: %s", HOSTILE, 7, ValueError(f"no\n{HOSTILE}"))
    assert told.count("\n") == 1
    assert is_safe(told.rstrip("\n"))
    assert " of 7 is held: no\\n" in told


def test_the_traceback_of_a_log_record_is_safe_and_its_secrets_are_hidden():
    try:
        raise ConnectionError(f"{HOSTILE} redis://:hunter2@cache/0")
    except ConnectionError:
        told = logged("it failed", exc_info=True)
    assert "Traceback" in told
    assert "redis://:***@cache/0" in told
    assert "hunter2" not in told
    assert all(is_safe(part) for part in told.split("\n"))


def test_an_error_that_cannot_be_told_does_not_keep_a_line_from_being_logged():
    class Unreadable(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no text")

    assert "a Unreadable whose text cannot be read" in logged("it failed: %s", Unreadable())


def test_the_filter_is_there_once():
    printable.guard_log()
    printable.guard_log()
    filters = logging.getLogger("durable_adapter").filters
    assert sum(isinstance(each, printable.SafeRecords) for each in filters) == 1
