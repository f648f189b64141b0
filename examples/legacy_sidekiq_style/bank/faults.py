"""How the bank misbehaves: rules per operation, and gates at which a request blocks until it is released.

A rule acts at one of two moments, before the effect or after it was committed and before the answer. Operations are
the kinds (`charges` is `POST /charges`), `find charges` for a question about them, and `*` for every kind.
"""

from __future__ import annotations

import threading
import time
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Iterable

When = Literal["before", "after"]

#: What a rule may do. `decline` refuses with 402, `fail` answers 500, `drop` hangs up, `slow` sleeps, `gate` blocks.
DEEDS = ("slow", "drop", "decline", "fail", "gate")
MOMENTS = ("before", "after")
#: What a released request does: go on, or hang up without going on.
RELEASES = ("continue", "drop")


class HangUp(Exception):
    """The connection is to be closed without an answer."""


class Misbehave(Exception):
    """The request is to be answered with this status instead of the truth."""

    def __init__(self, status: int, code: str) -> None:
        super().__init__(f"the bank was told to answer {code}")
        self.status, self.code = status, code


class BadRule(Exception):
    """A rule names an option or a value that does not exist."""


@dataclass(frozen=True)
class Visit:
    """One request that arrived: who asked for what, when (seconds since the epoch)."""

    operation: str
    reference: str | None
    key: str | None
    pid: int | None
    at: float


@dataclass
class Rule:
    """One misbehaviour. Give `times` to stop after so many requests, `skip` to let the first ones pass.

    `hits` counts the requests it acted on. For a gate, `waiting` lists those that block now and `released` says how
    it was opened; an open gate lets everything pass.
    """

    id: int
    operation: str
    do: Literal["slow", "drop", "decline", "fail", "gate"]
    when: When = "before"
    reference: str | None = None
    seconds: float = 0.0
    times: int | None = None
    skip: int = 0
    code: str = "card_declined"
    hits: int = 0
    waiting: list[Visit] = field(default_factory=list)
    released: str | None = None

    def takes(self, visit: Visit, when: When) -> bool:
        """Whether the rule acts on this request now; counts it if so."""
        named = self.operation == visit.operation
        if not named and (self.operation != "*" or visit.operation.startswith("find ")):
            return False
        if self.when != when or (self.reference is not None and self.reference != visit.reference):
            return False
        if self.released or self.times == 0:
            return False
        if self.skip:
            self.skip -= 1
            return False
        if self.times is not None:
            self.times -= 1
        self.hits += 1
        return True


class Faults:
    """The rules in force and the requests that have come. Threads share it."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._rules: dict[int, Rule] = {}
        self._visits: list[Visit] = []
        self._closing = False
        self._last = 0

    def add(self, spec: dict[str, Any], operations: Iterable[str]) -> dict[str, Any]:
        """Puts a rule in force and returns it with its id."""
        known = {"*", *operations, *(f"find {name}" for name in operations)}
        if spec.get("operation") not in known:
            raise BadRule(f"operation={spec.get('operation')!r} is none of {', '.join(sorted(known))}")
        if spec.get("do") not in DEEDS:
            raise BadRule(f"do={spec.get('do')!r} is none of {', '.join(DEEDS)}")
        if spec.get("when", "before") not in MOMENTS:
            raise BadRule(f"when={spec.get('when')!r} is none of {', '.join(MOMENTS)}")
        if spec["do"] == "decline" and spec.get("when") == "after":
            raise BadRule("do='decline' cannot come after the effect; use do='fail'")
        with self._changed:
            self._last += 1
            try:
                rule = Rule(id=self._last, **spec)
            except TypeError as error:
                raise BadRule(str(error)) from error
            self._rules[rule.id] = rule
            return asdict(rule)

    def rule(self, number: int, arrived: int = 0, patience: float = 0.0) -> dict[str, Any] | None:
        """The rule as it stands; waits up to *patience* seconds until it acted on *arrived* requests."""
        with self._changed:
            self._changed.wait_for(lambda: number not in self._rules or self._rules[number].hits >= arrived, timeout=patience)
            rule = self._rules.get(number)
            return asdict(rule) if rule else None

    def rules(self) -> list[dict[str, Any]]:
        """Every rule in force."""
        with self._changed:
            return [asdict(rule) for rule in self._rules.values()]

    def release(self, number: int, then: str = "continue") -> dict[str, Any] | None:
        """Opens a gate for good: what waits goes on, or hangs up without going on."""
        if then not in RELEASES:
            raise BadRule(f"then={then!r} is none of {', '.join(RELEASES)}")
        with self._changed:
            rule = self._rules.get(number)
            if rule is None:
                return None
            rule.released = then
            self._changed.notify_all()
            return asdict(rule)

    def remove(self, number: int | None = None) -> None:
        """Takes one rule, or all, out of force; what waits at a removed gate goes on."""
        with self._changed:
            for rule in [rule for rule in self._rules.values() if number in (None, rule.id)]:
                rule.released = rule.released or "continue"
                del self._rules[rule.id]
            self._changed.notify_all()

    def close(self) -> None:
        """Ends every wait; what still waits hangs up without going on."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()

    def arrive(self, visit: Visit) -> None:
        """Notes a request."""
        with self._changed:
            self._visits.append(visit)

    def visits(self, reference: str | None = None) -> list[dict[str, Any]]:
        """The requests that came, oldest first."""
        with self._changed:
            return [asdict(visit) for visit in self._visits if reference in (None, visit.reference)]

    def meet(self, visit: Visit, when: When) -> None:
        """Lets every rule for this request and moment act, in the order in which they were put in force.

        Raises:
            HangUp: the connection is to be closed.
            Misbehave: the request is to be answered with an error.
        """
        with self._changed:  # given back while a rule waits
            acting = [rule for rule in self._rules.values() if rule.takes(visit, when)]
            self._changed.notify_all()
            for rule in acting:
                self._act(rule, visit)

    def _act(self, rule: Rule, visit: Visit) -> None:
        if rule.do == "slow":
            self._changed.wait_for(lambda: self._closing, timeout=rule.seconds)
        elif rule.do == "gate":
            self._block(rule, visit)
        elif rule.do == "drop":
            raise HangUp
        elif rule.do == "decline":
            raise Misbehave(402, rule.code)
        else:
            raise Misbehave(500, "bank_failed")

    def _block(self, rule: Rule, visit: Visit) -> None:
        rule.waiting.append(visit)
        self._changed.notify_all()
        self._changed.wait_for(lambda: rule.released or self._closing)
        rule.waiting.remove(visit)
        self._changed.notify_all()
        if rule.released != "continue":
            raise HangUp


def visit_now(operation: str, reference: Any, key: str | None, pid: str | None) -> Visit:
    """A request that arrives at this moment."""
    asked = None if reference is None else str(reference)
    return Visit(operation, asked, key, int(pid) if pid and pid.isdigit() else None, time.time())
