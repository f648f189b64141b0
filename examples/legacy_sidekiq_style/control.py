"""The other side of the fake bank, for tests and the demo: read its ledger, and tell it to misbehave.

    gate = BankControl(url).gate("charges", when="after", reference="order-42")
    visit = gate.arrived()          # a request has done its work and waits for its answer
    os.kill(visit["pid"], signal.SIGKILL)
    gate.release()

`visit` is `{"operation": ..., "reference": ..., "key": ..., "pid": ..., "at": ...}`.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import Any, Literal
from urllib.error import HTTPError
from urllib.parse import quote, urlencode
from urllib.request import ProxyHandler, Request, build_opener

When = Literal["before", "after"]


class ControlError(Exception):
    """The bank does not understand an instruction; the message is the bank's own."""


class BankControl:
    """Instructions to a fake bank at *url*. Nothing said here counts as a request in `requests()`."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._opener = build_opener(ProxyHandler({}))

    def open_account(self, name: str, currency: str, balance: int) -> None:
        """Opens an account holding *balance* minor units."""
        self.call("PUT", f"/accounts/{quote(name, safe='')}", {"currency": currency, "balance": balance})

    def fill_shelf(self, item: str, quantity: int) -> None:
        """Puts *quantity* of *item* on the shelf."""
        self.call("PUT", f"/stock/{quote(item, safe='')}", {"quantity": quantity})

    def stock(self, item: str) -> int:
        """How many of *item* are on the shelf."""
        return int(self.call("GET", f"/stock/{quote(item, safe='')}")["quantity"])

    def ledger(self, reference: str | None = None, prefix: str | None = None, kind: str | None = None) -> dict[str, Any]:
        """`{"counts": {kind: n}, "sums": {kind: minor units}, "rows": [...]}` of what fits the filters."""
        return self.call("GET", _query("/ledger", reference=reference, prefix=prefix, kind=kind))

    def counts(self, reference: str | None = None, prefix: str | None = None) -> dict[str, int]:
        """How often each kind happened."""
        counts: dict[str, int] = self.ledger(reference, prefix)["counts"]
        return counts

    def requests(self, reference: str | None = None) -> list[dict[str, Any]]:
        """Every request that reached the bank, done or not: operation, reference, key, pid of the client, time."""
        requests: list[dict[str, Any]] = self.call("GET", _query("/admin/requests", reference=reference))["requests"]
        return requests

    def rule(
        self,
        operation: str,
        do: Literal["slow", "drop", "decline", "fail", "gate"],
        when: When = "before",
        **options: Any,
    ) -> Rule:
        """Puts a rule in force.

        Args:
            operation: a kind (`"charges"`), `"find charges"` for the question about it, or `"*"` for every kind.
            do: sleep `seconds`; hang up; answer 402 with `code`; answer 500; or block until released.
            when: before the effect, or after it and before the answer.
            options: `reference`, `seconds`, `code`, `times` (act on so many requests only), `skip` (let so many pass).
        """
        spec = {"operation": operation, "do": do, "when": when, **options}
        return Rule(self, int(self.call("POST", "/admin/rules", spec)["id"]))

    def gate(self, operation: str, when: When = "before", reference: str | None = None, **options: Any) -> Rule:
        """Puts a gate in force: requests block there until it is released."""
        return self.rule(operation, "gate", when, reference=reference, **options)

    def behave(self) -> None:
        """Takes every rule out of force; what waits at a gate goes on."""
        self.call("DELETE", "/admin/rules")

    def call(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """One instruction, and its answer."""
        data = None if body is None else json.dumps(body).encode()
        request = Request(self.url + path, data=data, headers={"Content-Type": "application/json"}, method=method)
        try:
            with self._opener.open(request, timeout=60) as response:
                answer: dict[str, Any] = json.loads(response.read())
                return answer
        except HTTPError as error:
            raise ControlError(f"{method} {path}: {json.loads(error.read() or b'{}').get('message')}") from None


@dataclass(frozen=True)
class Rule:
    """A rule in force."""

    control: BankControl
    id: int

    def state(self) -> dict[str, Any]:
        """The rule as it stands: `hits`, `waiting` (requests that block now), `released`, and its options."""
        return self.control.call("GET", f"/admin/rules/{self.id}")

    def arrived(self, count: int = 1, timeout: float = 30.0) -> dict[str, Any]:
        """Waits until the rule has acted on *count* requests; returns the request that waits longest at the gate.

        Raises:
            TimeoutError: they did not come within *timeout* seconds.
        """
        until = time.monotonic() + timeout
        while True:
            wait = max(0.0, min(10.0, until - time.monotonic()))
            state = self.control.call("GET", _query(f"/admin/rules/{self.id}", arrived=str(count), wait=str(wait)))
            if state["hits"] >= count:
                waiting: list[dict[str, Any]] = state["waiting"]
                return waiting[0] if waiting else {}
            if time.monotonic() >= until:
                raise TimeoutError(f"{state['hits']} of {count} requests came to rule {self.id} within {timeout} s")

    def release(self, then: Literal["continue", "drop"] = "continue") -> None:
        """Opens a gate for good; what waits goes on, or with *then* = `"drop"` hangs up without going on."""
        self.control.call("POST", f"/admin/rules/{self.id}/release", {"then": then})

    def remove(self) -> None:
        """Takes the rule out of force."""
        self.control.call("DELETE", f"/admin/rules/{self.id}")


def _query(path: str, **filters: str | None) -> str:
    wanted = {name: value for name, value in filters.items() if value is not None}
    return f"{path}?{urlencode(wanted)}" if wanted else path
