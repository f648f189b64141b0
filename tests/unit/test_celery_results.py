"""What Celery's result backends say of a task: when its result was stored, and whether its body ran at all."""

from __future__ import annotations

import dataclasses
import datetime as dt
from typing import Any

import pytest
from celery.exceptions import InvalidTaskError, NotRegistered, TaskRevokedError
from kombu.exceptions import ContentDisallowed, EncodeError

from durable_adapter.celery.engine import CeleryEngine
from durable_adapter.model import SECOND, Kind, StepRow, StepStatus

NOON = dt.datetime(2026, 3, 1, 12, tzinfo=dt.UTC)

CHARGE = StepRow(ref="r", key="t-1", position=0, name="charge", kind=Kind.STEP, status=StepStatus.PLANNED, task_id="t-1")


class Backend:
    """A backend that has one result, and the app and binding around it."""

    def __init__(self, **meta: Any) -> None:
        self.backend = self.app = self
        self.meta = meta

    def get_task_meta(self, _task_id: str, cache: bool) -> dict[str, Any]:
        assert not cache
        return self.meta


@pytest.mark.parametrize(
    ("done", "at"),
    [
        (NOON.isoformat(), NOON),
        (NOON.astimezone(dt.timezone(dt.timedelta(hours=5))).isoformat(), NOON),
        (NOON, NOON),
        (NOON.replace(tzinfo=None), NOON),
        (None, None),
        ("yesterday", None),
    ],
)
def test_it_is_told_in_the_journals_unit(done: Any, at: dt.datetime | None) -> None:
    found = CeleryEngine(Backend(status="SUCCESS", result=7, date_done=done)).outcome(CHARGE)  # type: ignore[arg-type]
    assert found is not None
    assert (found.succeeded, found.value) == (True, 7)
    assert found.at == (None if at is None else int(at.timestamp() * SECOND))


@pytest.mark.parametrize("status", ["PENDING", "STARTED", "RETRY", "HELD"])
def test_what_is_not_an_outcome_is_none(status: str) -> None:
    assert CeleryEngine(Backend(status=status)).outcome(CHARGE) is None  # type: ignore[arg-type]


def test_a_revoked_task_was_ended_on_purpose() -> None:
    revoked = Backend(status="REVOKED", result=TaskRevokedError("expired"), date_done=NOON.isoformat())
    found = CeleryEngine(revoked).outcome(CHARGE)  # type: ignore[arg-type]
    assert found is not None
    assert found.ended is not None
    assert (found.succeeded, found.ended.word, found.ended.at) == (False, "Celery says: expired", found.at)


BEFORE_THE_BODY = "in trace_task_ret\n    loads(body)\nkombu.exceptions.ContentDisallowed: yaml"
IN_THE_BODY = "in trace_task\n    R = retval = fun(*args, **kwargs)\nkombu.exceptions.ContentDisallowed: yaml"


@pytest.mark.parametrize(
    ("error", "traceback", "refused"),
    [
        (NotRegistered("charge"), None, True),
        (NotRegistered("another"), IN_THE_BODY, False),
        (NotRegistered("another"), None, False),
        (ContentDisallowed("yaml"), BEFORE_THE_BODY, True),
        (ContentDisallowed("yaml"), IN_THE_BODY, False),
        (InvalidTaskError("no id"), None, True),
        (EncodeError("a set"), None, False),
        (ValueError("declined"), IN_THE_BODY, False),
    ],
)
def test_only_some_failures_prove_that_no_body_ran(error: Exception, traceback: str | None, refused: bool) -> None:
    stored = Backend(status="FAILURE", result=error, traceback=traceback)
    found = CeleryEngine(stored).outcome(CHARGE)  # type: ignore[arg-type]
    assert found is not None
    assert (found.refused is not None) is refused


def test_the_failure_of_a_task_that_was_retried_proves_nothing_of_its_earlier_deliveries() -> None:
    stored = Backend(status="FAILURE", result=NotRegistered("charge"), retries=1)
    found = CeleryEngine(stored).outcome(CHARGE)  # type: ignore[arg-type]
    assert found is not None
    assert found.refused is None


def test_a_step_that_has_no_task_has_no_outcome() -> None:
    called = dataclasses.replace(CHARGE, task_id=None)
    assert CeleryEngine(Backend(status="SUCCESS", result=7)).outcome(called) is None  # type: ignore[arg-type]
