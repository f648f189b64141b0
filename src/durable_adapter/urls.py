"""Hides the secrets in URLs, also in URLs that cannot be parsed. No other file does.

A password may be before the `@`, in the query (`?password=`, `?sslpassword=`, `?passfile=`), or contain an unescaped `@`, `/` or
`?`. If it is uncertain which part is secret, too much is hidden rather than too little.
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import unquote_plus

#: Replaces a hidden part.
HIDDEN: Final = "***"
_SCHEME: Final = r"[A-Za-z][A-Za-z0-9+.\-]*://"
#: A URL inside a text; a quote or a space ends it.
_IN_TEXT: Final = re.compile(rf"\b{_SCHEME}[^\s'\"`<>]+")
_URL: Final = re.compile(rf"(?P<scheme>{_SCHEME})(?P<rest>.*)", re.DOTALL)
#: A broker setting may be several URLs, separated by semicolons.
_NEXT: Final = re.compile(rf";(?={_SCHEME})")
_SECRET: Final = re.compile(r"pass|pwd|secret|token|cred|key|auth|signature", re.IGNORECASE)
#: `password=...` in libpq's key-value form of a connection string.
_PAIR: Final = re.compile(
    r"(?P<name>[\w%.\-]*(?:pass|pwd|secret|token)[\w%.\-]*\s*=\s*)(?P<value>'[^']*'|[^\s&;]+)", re.IGNORECASE
)
_PORT: Final = re.compile(r"\d*")
#: The part before the query, the query, and the fragment.
_PARTS: Final = re.compile(r"([^?#]*)(?:\?([^#]*))?(?:#(.*))?", re.DOTALL)


def safe_url(url: str) -> str:
    """Returns the URL without its secrets, for terminals, logs and messages. Never raises.

    Example:
        >>> safe_url("postgresql://shop:se@cret@db/shop?sslmode=require&sslpassword=x")
        'postgresql://shop:***@db/shop?sslmode=require&sslpassword=***'
    """
    return ";".join(_one(part) for part in _NEXT.split(str(url)))


def has_secret(url: str) -> bool:
    """Returns whether `safe_url` hides a part of the URL."""
    return safe_url(url) != str(url)


def without_secrets(text: str) -> str:
    """Returns the text with the secrets of every URL in it hidden."""
    return _IN_TEXT.sub(lambda found: safe_url(found[0]), text) if "://" in text else text


def scrubbed(text: str, *urls: str | None) -> str:
    """Returns the text of an error about some URLs, without their secrets or pieces of these.

    A driver that could not parse a URL may quote any piece of it ("invalid port: 'cret@db'").
    """
    for url in filter(None, urls):
        text = text.replace(url, safe_url(url))
        for piece in sorted(_pieces(url), key=len, reverse=True):
            text = text.replace(piece, HIDDEN)
    return without_secrets(text)


def _one(url: str) -> str:
    found = _URL.fullmatch(url)
    if found is None:
        before, at, after = url.rpartition("@")
        url = f"{before.partition(':')[0]}:{HIDDEN}@{after}" if at and ":" in before else url
        return _PAIR.sub(lambda pair: f"{pair['name']}{HIDDEN}", url)
    user, secret, rest = _credentials(found["rest"])
    place, query, fragment = _parts(rest)
    shown = user if secret is None else f"{user}:{HIDDEN}"
    shown += "@" if shown else ""
    shown += place + ("" if query is None else f"?{_query(query)}") + ("" if fragment is None else f"#{HIDDEN}")
    return f"{found['scheme']}{shown}"


def _credentials(rest: str) -> tuple[str, str | None, str]:
    """Splits the part after the scheme into user, password and the rest."""
    if rest.startswith("/"):  # a path: there is no host, and an `@` is the name of a file
        return "", None, rest
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    before, at, after = rest.rpartition("@")
    if at and ":" in before:
        user, _, secret = before.partition(":")
        if not re.search(r"[/?#@]", user):
            return user, secret, after
    if "@" in authority:
        before, _, _ = authority.rpartition("@")
        return before, None, rest[len(before) + 1 :]
    host, colon, port = authority.rpartition(":")
    if colon and not authority.startswith("[") and not _PORT.fullmatch(port) and "," not in authority:
        return host, authority[len(host) + 1 :], rest[len(authority) :]
    return "", None, rest


def _parts(rest: str) -> tuple[str, str | None, str | None]:
    """Splits a URL into the part before the query, the query and the fragment; missing ones are None."""
    found = _PARTS.fullmatch(rest)
    return (found[1], found[2], found[3]) if found is not None else (rest, None, None)


def _query(query: str) -> str:
    """Returns a query with the values hidden whose names or contents are secrets."""

    def pair(text: str) -> str:
        name, equals, value = text.partition("=")
        secret = _SECRET.search(unquote_plus(name)) or _PAIR.search(unquote_plus(value))
        return f"{name}={HIDDEN}" if equals and secret else text

    return "".join(part if part in "&;" else pair(part) for part in re.split("([&;])", query))


def _pieces(url: str) -> set[str]:
    """Returns the texts that a driver's error might quote: the passwords, whole, decoded, and split at URL delimiters."""
    found: set[str] = set()
    for each in _NEXT.split(url):
        match = _URL.fullmatch(each)
        if match is None:
            continue
        _, secret, rest = _credentials(match["rest"])
        secrets = [secret] if secret else []
        for part in re.split("[&;]", rest.partition("?")[2]):
            name, _, value = part.partition("=")
            if value and _SECRET.search(unquote_plus(name)):
                secrets.append(value)
        for whole in secrets:
            found |= {whole, unquote_plus(whole), *re.split(r"[@:/?#]", whole)}
    return {piece for piece in found if len(piece) > 2}
