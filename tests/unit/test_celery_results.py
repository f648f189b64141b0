"""When a result was stored, as each of Celery's result backends says it."""

from __future__ import annotations

import dataclasses
import datetime as dt
from typing import Any

import pytest

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


@pytest.mark.parametrize("status", ["PENDING", "STARTED", "RETRY", "REVOKED", "HELD"])
def test_what_is_not_an_outcome_is_none(status: str) -> None:
    assert CeleryEngine(Backend(status=status)).outcome(CHARGE) is None  # type: ignore[arg-type]


def test_a_step_that_has_no_task_has_no_outcome() -> None:
    called = dataclasses.replace(CHARGE, task_id=None)
    assert CeleryEngine(Backend(status="SUCCESS", result=7)).outcome(called) is None  # type: ignore[arg-type]
