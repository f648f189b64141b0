"""Makes text safe for terminals, log lines and a shell.

Text from outside (a provider's error, an id, a task's name, a reason) may contain characters that move the cursor, write to the
clipboard or reverse text. Only this file escapes them: the command line's output and the filter of the library's logger both call
`line()` or `lines()`, which also hide the secrets of URLs (`urls.py`).
"""

from __future__ import annotations

import logging
import re
import shlex
import traceback
from typing import Any, Final

from .urls import without_secrets

#: Control characters (C0, DEL, C1), line and paragraph separators, marks and overrides of writing direction, characters
#: without width, and halves of surrogate pairs.
_UNSAFE: Final = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e007f]"
)
#: Those of them that `json.dumps(..., ensure_ascii=False)` does not escape.
_UNSAFE_IN_JSON: Final = re.compile(_UNSAFE.pattern.replace("\x00-\x1f", "", 1))
_SHORT: Final = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}
#: The library's logger.
_LOGGER: Final = "durable_adapter"


def line(text: str) -> str:
    """Returns the text on one line, with unsafe characters and line ends escaped.

    Example:
        >>> line("declined\\x1b[2J\\nnothing is wrong")
        'declined\\\\x1b[2J\\\\nnothing is wrong'
    """
    return _UNSAFE.sub(_escape, without_secrets(text))


def lines(text: str, indent: str = "  ") -> str:
    """Returns the text with its lines, with unsafe characters escaped, and each line after the first indented.

    The indent distinguishes lines from outside from the library's own.
    """
    return f"\n{indent}".join(line(part) for part in text.expandtabs().split("\n"))


def json_text(dumped: str) -> str:
    """Returns dumped JSON with the characters that are unsafe on a terminal as JSON escapes."""
    return _UNSAFE_IN_JSON.sub(_as_json, dumped)


def shell_word(text: str) -> str:
    """Returns the text as one word of a shell command that is safe to paste (bash, zsh, ksh; plain text: any shell).

    Example:
        >>> shell_word("order-42"), shell_word("it's"), shell_word("a\\nb")
        ('order-42', '\\'it\\'"\\'"\\'s\\'', "$'a\\\\x0ab'")
    """
    if not _UNSAFE.search(text):
        return shlex.quote(text)
    data = text.encode(errors="surrogateescape" if _came_from_the_shell(text) else "replace")
    return "$'" + "".join(chr(byte) if _is_plain(byte) else f"\\x{byte:02x}" for byte in data) + "'"


def guard_log() -> None:
    """Adds a filter to the library's logger that makes every record safe before any handler sees it."""
    logger = logging.getLogger(_LOGGER)
    if not any(isinstance(each, SafeRecords) for each in logger.filters):
        logger.addFilter(SafeRecords())


class SafeRecords(logging.Filter):
    """Makes the arguments and the traceback of a log record safe. The template stays, so that trackers group by it."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Makes one record safe, and lets it pass."""
        if isinstance(record.args, tuple):
            record.args = tuple(_argument(each) for each in record.args)
        elif record.args:
            record.args = {name: _argument(each) for name, each in record.args.items()}
        record.msg = lines(str(record.msg))
        if record.exc_info and record.exc_info[0] is not None and not record.exc_text:
            safe = told_traceback(record.exc_info[1])
            if safe is not None:
                record.exc_text = safe
        return True


def told_traceback(error: BaseException | None) -> str | None:
    """Returns an error's traceback made safe; None if Python's own text is safe, so that a handler may format it."""
    try:
        raw = "".join(traceback.format_exception(error)).rstrip("\n")
    except Exception:
        return f"the traceback of a {type(error).__name__} cannot be written"
    safe = "\n".join(line(part) for part in raw.split("\n"))
    return safe if safe != raw else None


def words_of(error: BaseException) -> str:
    """Returns an error's text; if its `str()` raises, its type."""
    try:
        return str(error)
    except Exception:
        return f"a {type(error).__name__} whose text cannot be read"


def _argument(value: Any) -> Any:
    """Returns a log record's argument made safe; numbers stay numbers."""
    if value is None or isinstance(value, (bool, int, float)):
        return value
    return line(words_of(value) if isinstance(value, BaseException) else str(value))


def _escape(found: re.Match[str]) -> str:
    character = found[0]
    code = ord(character)
    if character in _SHORT:
        return _SHORT[character]
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _as_json(found: re.Match[str]) -> str:
    code = ord(found[0])
    if code < 0x10000:
        return f"\\u{code:04x}"
    code -= 0x10000
    return f"\\u{0xD800 + (code >> 10):04x}\\u{0xDC00 + (code & 0x3FF):04x}"


def _came_from_the_shell(text: str) -> bool:
    return not re.search("[\ud800-\udc7f\udd00-\udfff]", text)


def _is_plain(byte: int) -> bool:
    """Returns whether a byte needs no escape inside `$'...'`; `!` does, because of the shell's history."""
    return 0x20 <= byte < 0x7F and byte not in b"'\\!"
