"""A shop that knows no engine: plain marked functions, and a bank that can be told to misbehave.

A test's engine sends them: `world.dispatch` is what a workflow function sends a step with.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import sqlalchemy as sa

import durable_adapter as durable

BOOKINGS = sa.Table("bookings", sa.MetaData(), sa.Column("about", sa.String(100), nullable=False))


class Declined(Exception):
    """The bank did not do it."""


class Gone(Exception):
    """The bank will never do it."""


class Bank:
    """What happened outside, and what happens next."""

    def __init__(self) -> None:
        self.effects: list[str] = []
        #: Idempotency keys by effect, in the order of the calls.
        self.keys: list[tuple[str, str]] = []
        #: How the next calls end: an error each, or None; "before" in a pair: the error comes before the effect.
        self.trouble: list[BaseException | tuple[str, BaseException] | None] = []
        #: What is done while the bank is working on a call.
        self.meanwhile: Callable[[str], Any] | None = None
        #: What the next probes answer; a function of the effect's name, or a verdict.
        self.answers: list[Any] = []
        #: Sends a step from inside a workflow function; returns what hands its result over. Set by the test's engine.
        self.dispatch: Callable[..., Callable[[], Any]] = self._nobody
        #: Starts a workflow from inside durable code. Set likewise.
        self.send: Callable[..., Any] = self._nobody

    def _nobody(self, *_: Any, **__: Any) -> Any:
        raise AssertionError("no engine")

    def do(self, what: str) -> None:
        """An effect; then there may be trouble."""
        trouble = self.trouble.pop(0) if self.trouble else None
        if isinstance(trouble, tuple):
            raise trouble[1]
        self.effects.append(what)
        if self.meanwhile is not None:
            self.meanwhile(what)
        if trouble is not None:
            raise trouble

    def keyed(self, what: str) -> None:
        """An effect that carries an idempotency key, which the bank honours."""
        key = durable.idempotency_key()
        known = (what, key) in self.keys
        self.keys.append((what, key))
        if known and what in self.effects:
            trouble = self.trouble.pop(0) if self.trouble else None
            if isinstance(trouble, BaseException):
                raise trouble
            return
        self.do(what)

    def ask(self, what: str) -> durable.Verdict:
        """What a probe hears."""
        answer = self.answers.pop(0) if self.answers else self.honestly
        if isinstance(answer, BaseException):
            raise answer
        return answer(what) if callable(answer) else answer

    def honestly(self, what: str) -> Any:
        """As it was."""
        return durable.happened(f"found {what}") if what in self.effects else durable.did_not_happen()


bank = Bank()


def body(order: str) -> None:
    """Notes that a function ran from the top."""
    bank.effects.append(f"body {order}")


# Steps


def refund(charged: str, order: str, **_: Any) -> str:
    """Undoes a charge; not marked itself."""
    bank.do(f"refund {charged} of {order}")
    return "refunded"


@durable.step(did_not_happen=Declined)
def release(reserved: str, order: str) -> str:
    """Undoes a reservation; a step of its own."""
    bank.do(f"release {reserved} of {order}")
    return "released"


@durable.step
def charge(order: str) -> str:
    bank.do(f"charge {order}")
    return f"ch-{order}"


@durable.step
def ship(order: str) -> str:
    bank.do(f"ship {order}")
    return f"sh-{order}"


def mail(order: str) -> str:
    """Not marked."""
    bank.do(f"mail {order}")
    return f"ma-{order}"


@durable.step(did_not_happen=Declined)
def decline(order: str) -> str:
    bank.do(f"ask {order}")
    raise Declined(f"no money for {order}")


@durable.step(did_not_happen=durable.NeverConnected)
def polite(order: str) -> str:
    """Talks to one provider, once."""
    bank.do(f"polite {order}")
    return "done"


@durable.step(did_not_happen=durable.NeverConnected, maybe_happened=(ConnectionRefusedError,))
def doubtful(order: str) -> str:
    bank.do(f"doubtful {order}")
    return "done"


@durable.step(idempotent=True, retry=durable.RetryPolicy(initial_interval=60, coefficient=2, maximum_attempts=4, jitter=0))
def keyed(order: str) -> str:
    bank.keyed(f"keyed {order}")
    return f"ke-{order}"


@durable.step(idempotent=True, retry=durable.RetryPolicy(maximum_attempts=5, non_retryable=(Gone,), jitter=0))
def picky(order: str) -> str:
    bank.do(f"picky {order}")
    return "picked"


@durable.step(idempotent=timedelta(hours=2))
def soon_forgotten(order: str) -> str:
    bank.do(f"soon {order}")
    return "done"


def find(order: str) -> durable.Verdict:
    """The probe."""
    return bank.ask(f"probed {order}")


@durable.step(probe=find, settle=30)
def probed(order: str) -> str:
    bank.do(f"probed {order}")
    return f"pr-{order}"


@durable.step(probe=find, settle=0, did_not_happen=Declined, retry=durable.RetryPolicy(initial_interval=5, maximum_attempts=3))
def probed_again(order: str) -> str:
    bank.do(f"probed {order}")
    return f"pr-{order}"


@durable.step(transactional=True)
def book(order: str) -> int:
    bank.effects.append(f"book {order}")
    durable.session().execute(sa.insert(BOOKINGS).values(about=order))
    trouble = bank.trouble.pop(0) if bank.trouble else None
    if isinstance(trouble, BaseException):
        raise trouble
    return 1


@durable.step(transactional=True, retry=durable.RetryPolicy(initial_interval=1, maximum_attempts=3))
def book_again(order: str) -> int:
    durable.session().execute(sa.insert(BOOKINGS).values(about=order))
    bank.do(f"book {order}")
    return 1


@durable.step(transactional=True)
def book_and_send(order: str) -> int:
    durable.session().execute(sa.insert(BOOKINGS).values(about=order))
    bank.send(charge, order)
    bank.do(f"book {order}")
    return 1


@durable.step
def referred(order: str) -> str:
    durable.external_reference(f"ref-{order}")
    bank.do(f"referred {order}")
    return "done"


@durable.step(transactional=True)
def referred_in_transaction(order: str) -> str:
    durable.external_reference(f"ref-{order}")
    return "done"


@durable.step
def unspeakable(order: str) -> object:
    bank.do(f"unspeakable {order}")
    return object()


@durable.step(compensate="tests.runtime.shop.refund")
def reserve(order: str) -> str:
    bank.do(f"reserve {order}")
    return f"re-{order}"


@durable.step(compensate="tests.runtime.shop.release")
def allot(order: str) -> str:
    bank.do(f"allot {order}")
    return f"al-{order}"


@durable.step(pivot=True)
def commit(order: str) -> str:
    bank.do(f"commit {order}")
    return "committed"


@durable.step
def outer(order: str) -> str:
    """A step that calls another one: that is a part of it."""
    bank.do(f"outer {order}")
    return charge(order)


@durable.step(key="item-{sku}")
def pick(order: str, sku: str) -> str:
    bank.do(f"pick {sku}")
    return f"picked {sku}"


@durable.step
def pick_b(order: str) -> str:
    bank.do(f"pick b {order}")
    return "picked b"


@durable.step(compensate="tests.runtime.shop.refund", key="{order}" + "x" * 500)
def long_winded(order: str) -> str:
    bank.do(f"long {order}")
    return f"lo-{order}"


@durable.step(drift="record")
def drifting(order: str, number: int) -> int:
    bank.do(f"drifting {order}")
    return number


@durable.step(ignore_arguments=("number",))
def ignoring(order: str, number: int) -> int:
    bank.do(f"ignoring {order}")
    return number


# Workflow functions


@durable.workflow(id="order-{order}", attributes=("order", "amount"), amount="amount")
def in_place(order: str, amount: int = 7) -> list[str]:
    body(order)
    return [charge(order), ship(order)]


@durable.workflow
def nested(order: str) -> str:
    return outer(order)


@durable.workflow
def sleeper(order: str, seconds: float = 3600.0) -> list[str]:
    body(order)
    first = charge(order)
    durable.sleep(seconds)
    return [first, ship(order)]


@durable.workflow
def naps(order: str) -> list[str]:
    body(order)
    for _ in range(3):
        durable.sleep(600)
    return [charge(order)]


@durable.workflow
def dispatcher(order: str) -> str:
    body(order)
    result = bank.dispatch(ship, order)
    charge(order)
    return f"got {result()}"


@durable.workflow
def forgetful(order: str) -> str:
    """Dispatches a step and does not ask for its result."""
    body(order)
    bank.dispatch(ship, order)
    return "done"


@durable.workflow
def fans_out(order: str) -> list[str]:
    body(order)
    results = [bank.dispatch(pick, order, sku) for sku in ("a", "b", "c")]
    return [result() for result in results]


@durable.workflow
def catches(order: str) -> str:
    body(order)
    try:
        decline(order)
    except Declined as error:
        durable.sleep(60)
        return charge(order) + f" although {error}"
    return "never"


@durable.workflow
def catches_dispatched(order: str) -> str:
    try:
        bank.dispatch(decline, order)()
    except Declined as error:
        return f"caught {error}"
    return "never"


@durable.workflow
def fails(order: str) -> str:
    reserve(order)
    allot(order)
    return decline(order)


@durable.workflow
def fails_by_itself(order: str) -> str:
    reserve(order)
    raise ValueError("the function's own")


@durable.workflow
def undoes_what_it_dispatched(order: str) -> str:
    bank.dispatch(reserve, order)()
    return decline(order)


@durable.workflow
def undoes_a_long_key(order: str) -> str:
    long_winded(order)
    return decline(order)


@durable.workflow
def swallows(order: str) -> str:
    body(order)
    try:
        durable.sleep(60)
    except BaseException:
        bank.effects.append("swallowed")
    return "went on"


#: What changes between two wakes of a function, as time, chance or a deploy would have it.
world_outside: dict[str, Any] = {}


@durable.workflow
def wavers(order: str) -> str:
    """Calls a step with other arguments each time."""
    world_outside["number"] = world_outside.get("number", 0) + 1
    value = pick(order, "a") if world_outside.get("keyed") else charge(f"{order}-{world_outside['number']}")
    durable.sleep(60)
    return value


@durable.workflow
def wavers_as_declared(order: str) -> list[int]:
    world_outside["number"] = world_outside.get("number", 0) + 1
    values = [drifting(order, world_outside["number"]), ignoring(order, world_outside["number"])]
    durable.sleep(60)
    return values


@durable.workflow
def redeployed(order: str) -> str:
    """Its second step gets another name while it runs."""
    first = charge(order)
    if world_outside.get("deployed"):
        ship(order)
    else:
        book(order)
    durable.sleep(60)
    return first


@durable.workflow
def reordered(order: str) -> list[str]:
    """Goes through a set, whose order nobody promises."""
    skus = ["a", "b", "c"]
    world_outside["number"] = world_outside.get("number", 0) + 1
    if world_outside["number"] % 2:
        skus.reverse()
    picked = [pick(order, sku) for sku in skus]
    durable.sleep(60)
    return sorted(picked)


@durable.workflow
def many(order: str) -> int:
    for number in range(25):
        charge(f"{order}-{number}")
    durable.sleep(60)
    return 25


@durable.workflow
def starts_another(order: str) -> str:
    bank.send(in_place, order)
    durable.sleep(60)
    return "started"


@durable.workflow
def books(order: str) -> int:
    booked = book(order)
    durable.sleep(60)
    return booked


@durable.workflow
def unspeakable_end(order: str) -> object:
    charge(order)
    return object()


#: Everything that an engine can send.
SENT: tuple[Callable[..., Any], ...] = (
    refund, release, charge, ship, mail, decline, polite, doubtful, keyed, picky, soon_forgotten, probed, probed_again, book,
    book_again, book_and_send, referred, referred_in_transaction, unspeakable, reserve, allot, commit, outer, pick, pick_b,
    long_winded, drifting, ignoring, in_place, nested, sleeper, naps, dispatcher, forgetful, fans_out, catches,
    catches_dispatched, fails, fails_by_itself, undoes_what_it_dispatched, undoes_a_long_key, swallows, wavers,
    wavers_as_declared, redeployed, reordered, many, starts_another, books, unspeakable_end,
)  # fmt: skip
