"""Secrets in URLs: hidden here and nowhere else, also in URLs that nothing can parse.

A password may stand before the `@`, in the query (`?password=`, `?sslpassword=`, `?passfile=`), or, unescaped, hold an
`@`, a `/` or a `?` itself. Where it is not certain what is secret, more is hidden than needs to be.
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import unquote_plus

#: Stands in the place of what is hidden.
HIDDEN: Final = "***"
_SCHEME: Final = r"[A-Za-z][A-Za-z0-9+.\-]*://"
#: A URL inside of a text; a quote or a space ends it.
_IN_TEXT: Final = re.compile(rf"\b{_SCHEME}[^\s'\"`<>]+")
_URL: Final = re.compile(rf"(?P<scheme>{_SCHEME})(?P<rest>.*)", re.DOTALL)
#: Brokers may be several URLs with a semicolon between them.
_NEXT: Final = re.compile(rf";(?={_SCHEME})")
_SECRET: Final = re.compile(r"pass|pwd|secret|token|cred|key|auth|signature", re.IGNORECASE)
#: `password=...` as libpq's other form of a connection string has it.
_PAIR: Final = re.compile(
    r"(?P<name>[\w%.\-]*(?:pass|pwd|secret|token)[\w%.\-]*\s*=\s*)(?P<value>'[^']*'|[^\s&;]+)", re.IGNORECASE
)
_PORT: Final = re.compile(r"\d*")
#: What stands before the query, the query, and the fragment.
_PARTS: Final = re.compile(r"([^?#]*)(?:\?([^#]*))?(?:#(.*))?", re.DOTALL)


def safe_url(url: str) -> str:
    """The URL without its secrets, fit for terminals, logs and messages. Never raises.

    Example:
        >>> safe_url("postgresql://shop:se@cret@db/shop?sslmode=require&sslpassword=x")
        'postgresql://shop:***@db/shop?sslmode=require&sslpassword=***'
    """
    return ";".join(_one(part) for part in _NEXT.split(str(url)))


def has_secret(url: str) -> bool:
    """Whether something of a URL is hidden when it is shown."""
    return safe_url(url) != str(url)


def without_secrets(text: str) -> str:
    """A text in which the secrets of every URL are hidden."""
    return _IN_TEXT.sub(lambda found: safe_url(found[0]), text) if "://" in text else text


def scrubbed(text: str, *urls: str | None) -> str:
    """The text of an error about some URLs: without them, and without pieces of their passwords.

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
    """A user, a password, and what follows them, of what stands behind the scheme."""
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
    """What stands before the query, the query, and the fragment; the latter are None where there are none."""
    found = _PARTS.fullmatch(rest)
    return (found[1], found[2], found[3]) if found is not None else (rest, None, None)


def _query(query: str) -> str:
    """A query in which what is called a secret, or holds one, is hidden."""

    def pair(text: str) -> str:
        name, equals, value = text.partition("=")
        secret = _SECRET.search(unquote_plus(name)) or _PAIR.search(unquote_plus(value))
        return f"{name}={HIDDEN}" if equals and secret else text

    return "".join(part if part in "&;" else pair(part) for part in re.split("([&;])", query))


def _pieces(url: str) -> set[str]:
    """Every text of which a driver's error might quote a piece: the passwords, whole, decoded and cut at what cuts URLs."""
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
