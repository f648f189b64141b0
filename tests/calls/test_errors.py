"""What an error says about the effect, through a step that runs: `maybe_happened` wins over everything that looks harmless."""

from __future__ import annotations

from typing import Any

import pytest

import durable_adapter as durable
from durable_adapter.declare.policy import StepPolicy
from durable_adapter.journal import Journal
from durable_adapter.model import Attention, Effect, StepStatus
from tests.calls.conftest import Workplace
from tests.journal.making import a_run, a_step, change, the


class Declined(Exception):
    """The bank says no."""


class DeclinedLate(Declined):
    """The bank says no, after it may have said yes."""


class Wrapper(Exception):
    """Carries another error, as an engine's retry does."""

    def __init__(self, exc: BaseException) -> None:
        super().__init__("again")
        self.exc = exc


HARMLESS = {"did_not_happen": (Declined, durable.NeverConnected)}
CAREFUL = HARMLESS | {"maybe_happened": (DeclinedLate, ConnectionRefusedError)}


def caused(error: Exception) -> Exception:
    outer = RuntimeError("it went wrong")
    outer.__cause__ = error
    return outer


@pytest.mark.parametrize("wrapped", [lambda e: e, caused, Wrapper], ids=["itself", "as a cause", "in a wrapper"])
@pytest.mark.parametrize(
    ("declared", "error", "effect"),
    [
        (HARMLESS, Declined(), Effect.DID_NOT_HAPPEN),
        (HARMLESS, DeclinedLate(), Effect.DID_NOT_HAPPEN),
        (HARMLESS, ConnectionRefusedError(), Effect.DID_NOT_HAPPEN),
        (CAREFUL, Declined(), Effect.DID_NOT_HAPPEN),
        (CAREFUL, DeclinedLate(), Effect.UNKNOWN),
        (CAREFUL, ConnectionRefusedError(), Effect.UNKNOWN),
        ({}, ConnectionRefusedError(), Effect.UNKNOWN),
    ],
)
def test_what_may_have_happened_although_it_looks_harmless_is_recorded_as_unknown(
    journal: Journal, at_work: Workplace, declared: dict[str, Any], error: Exception, effect: Effect, wrapped: Any
) -> None:
    ref = a_run(journal, "charge", "ship")

    def body() -> None:
        raise wrapped(error)

    raised = type(wrapped(error))
    with pytest.raises(raised):
        at_work.step(ref, "charge", body, StepPolicy(**declared))
    row = the(journal, ref, "charge")
    assert (row.status, row.effect) == (StepStatus.FAILED, effect)
    assert row.attention == (Attention.EFFECT_UNKNOWN.value if effect is Effect.UNKNOWN else None)


def test_an_idempotent_step_is_tried_again_after_it_and_not_after_a_plain_refusal(journal: Journal, at_work: Workplace) -> None:
    policy = StepPolicy(idempotent=True, **CAREFUL)  # type: ignore[arg-type]
    at_work.host.near = 10.0
    for error, attempts in ((Declined(), 1), (DeclinedLate(), 3)):
        ref = a_run(journal, a_step("charge", safety=policy.safety), "ship")
        at_work.ran.clear()
        at_work.host.pause = lambda _seconds, ref=ref: change(journal, ref, "charge", next_check_at=0)  # type: ignore[misc]

        def body(error: Exception = error) -> None:
            raise error

        with pytest.raises(type(error)):
            at_work.step(ref, "charge", body, policy)
        assert at_work.ran == {"charge": attempts}
