"""The shop's client for its bank, its mail service and its warehouse, as such clients are: thin, over urllib.

The provider's address comes from `FAKE_BANK_URL`, the patience from `FAKE_BANK_TIMEOUT` (seconds, 5). Reads and
writes raise errors that tell what is known: a refusal, a time-out, a line that was never or no longer open.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from decimal import Decimal
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import quote, urlencode
from urllib.request import ProxyHandler, Request, build_opener

#: Seconds to wait for an answer where neither the caller nor the environment says otherwise.
DEFAULT_TIMEOUT = 5.0


class BankError(Exception):
    """The provider answered with an error of its own; whether it did the work is unknown."""


class Refused(BankError):
    """The provider understood and did not do it."""


class CardDeclined(Refused):
    """The card cannot be charged."""


class InsufficientFunds(Refused):
    """The account holds too little."""


class OutOfStock(Refused):
    """The shelf holds too little."""


class KeyReused(Refused):
    """The idempotency key came before, with another request."""


class BankTimeout(BankError, TimeoutError):
    """No answer came in time; the work may have been done."""


class BankDown(BankError, ConnectionError):
    """The connection was never made; nothing left this process."""


class BankHungUp(BankError, ConnectionError):
    """The line went dead before the answer; the work may have been done."""


_REFUSALS: dict[str, type[Refused]] = {
    "card_declined": CardDeclined,
    "insufficient_funds": InsufficientFunds,
    "out_of_stock": OutOfStock,
    "key_reused": KeyReused,
}


@dataclass(frozen=True)
class Entry:
    """One row of the provider's ledger: something that happened."""

    id: str
    kind: str
    reference: str
    key: str | None
    details: dict[str, Any]
    replayed: bool = False


class BankClient:
    """Asks the provider to do things, and whether they happened.

    Args:
        url: the provider's address; `FAKE_BANK_URL` if not given, read at each call.
        timeout: seconds to wait for an answer; `FAKE_BANK_TIMEOUT` if not given.
    """

    def __init__(self, url: str | None = None, timeout: float | None = None) -> None:
        self._url, self._timeout = url, timeout
        self._opener = build_opener(ProxyHandler({}))

    def charge(self, reference: str, card: str, amount: int, key: str | None = None) -> Entry:
        """Charges *amount* minor units to *card*."""
        return self.do("charges", reference, key, card=card, amount=amount)

    def debit(self, reference: str, account: str, amount: int, key: str | None = None) -> Entry:
        """Takes *amount* minor units from *account*."""
        return self.do("debits", reference, key, account=account, amount=amount)

    def credit(self, reference: str, account: str, amount: int, key: str | None = None) -> Entry:
        """Gives *amount* minor units to *account*."""
        return self.do("credits", reference, key, account=account, amount=amount)

    def quote(self, reference: str, pair: str, key: str | None = None) -> Decimal:
        """Today's rate of *pair*; it moves at each request."""
        return Decimal(self.do("quotes", reference, key, pair=pair).details["rate"])

    def check(self, reference: str, subject: str, key: str | None = None) -> Entry:
        """Orders a compliance check of *subject*."""
        return self.do("checks", reference, key, subject=subject)

    def book(self, reference: str, amount: int, rate: str, key: str | None = None) -> Entry:
        """Books a line in the accounts."""
        return self.do("bookings", reference, key, amount=amount, rate=rate)

    def take_stock(self, reference: str, item: str, quantity: int, key: str | None = None) -> Entry:
        """Takes *quantity* of *item* from the shelf."""
        return self.do("stock_moves", reference, key, item=item, quantity=-quantity)

    def ship(self, reference: str, items: dict[str, int], key: str | None = None) -> Entry:
        """Tells the warehouse to ship."""
        return self.do("shipments", reference, key, items=items)

    def mail(self, reference: str, to: str, subject: str, key: str | None = None) -> Entry:
        """Sends a mail."""
        return self.do("mails", reference, key, to=to, subject=subject)

    def balance(self, account: str) -> int:
        """What *account* holds, in minor units."""
        return int(self._call("GET", f"/accounts/{quote(account, safe='')}")["balance"])

    def do(self, kind: str, reference: str, key: str | None = None, **details: Any) -> Entry:
        """Asks for one effect of any kind; *key* goes along as the Idempotency-Key."""
        return _entry(self._call("POST", f"/{kind}", {"reference": reference, **details}, key))

    def find(self, kind: str, reference: str | None = None, key: str | None = None) -> list[Entry]:
        """What of *kind* happened for this reference or key, oldest first."""
        filters = {name: value for name, value in (("reference", reference), ("key", key)) if value is not None}
        return [_entry(row) for row in self._call("GET", f"/{kind}?{urlencode(filters)}")["rows"]]

    def _call(self, method: str, path: str, body: dict[str, Any] | None = None, key: str | None = None) -> dict[str, Any]:
        url = self._url or os.environ["FAKE_BANK_URL"]
        timeout = self._timeout or float(os.environ.get("FAKE_BANK_TIMEOUT", DEFAULT_TIMEOUT))
        headers = {"Content-Type": "application/json", "X-Client-Pid": str(os.getpid())}
        if key is not None:
            headers["Idempotency-Key"] = key
        data = None if body is None else json.dumps(body).encode()
        request = Request(url + path, data=data, headers=headers, method=method)
        what = f"{method} {path}"
        try:
            with self._opener.open(request, timeout=timeout) as response:
                answer: dict[str, Any] = json.loads(response.read())
                return answer
        except HTTPError as error:
            raise _refusal(what, error) from None
        except URLError as error:
            reason = error.reason if isinstance(error.reason, OSError) else error
            if isinstance(reason, TimeoutError):
                raise BankTimeout(f"{what}: no connection within {timeout} s") from reason
            raise BankDown(f"{what}: {reason}") from reason
        except TimeoutError as error:
            raise BankTimeout(f"{what}: no answer within {timeout} s") from error
        except (OSError, HTTPException) as error:
            raise BankHungUp(f"{what}: {error}") from error


def _entry(row: dict[str, Any]) -> Entry:
    return Entry(row["id"], row["kind"], row["reference"], row["key"], dict(row["details"]), bool(row.get("replayed", False)))


def _refusal(what: str, error: HTTPError) -> BankError:
    answer = json.loads(error.read() or b"{}")
    code, message = answer.get("code", "unknown"), answer.get("message", "")
    text = f"{what}: {error.code} {code}: {message}"
    if error.code >= 500:
        return BankError(text)
    return _REFUSALS.get(code, Refused)(text)
