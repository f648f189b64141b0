"""A queue that puts jobs off, as django-rq's does inside a transaction, has no job that the next one could depend on."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
from rq import Queue

import durable_adapter.rq as durable_rq
from durable_adapter.errors import UnsupportedCanvas
from tests.celery.ledger import Ledger
from tests.rq.shop import steps
from tests.rq.world import Shop


class PutsOff(Queue):
    """What django-rq's queue does with `COMMIT_MODE` at its default: inside a transaction, jobs are sent after the commit."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.after_commit: list[Callable[[], Any]] | None = []

    def enqueue_call(self, *args: Any, **kwargs: Any) -> Any:
        if self.after_commit is None:
            return super().enqueue_call(*args, **kwargs)
        self.after_commit.append(lambda: super(PutsOff, self).enqueue_call(*args, **kwargs))
        return None

    def commit(self) -> None:
        """Sends what was put off, and puts nothing off from then on."""
        due, self.after_commit = self.after_commit or [], None
        for send in due:
            send()


@pytest.fixture
def queue(shop: Shop) -> PutsOff:
    return PutsOff(shop.name, connection=shop.redis)


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


def test_a_chain_that_falls_apart_because_its_queue_puts_jobs_off_is_warned_of(
    shop: Shop, queue: PutsOff, order: str, caplog: pytest.LogCaptureFixture
) -> None:
    charged = queue.enqueue(steps.charge, order)
    assert warnings(caplog) == [], "a first job gives no dependency, and is right"
    queue.enqueue(steps.book, order, depends_on=charged)
    (warning,) = warnings(caplog)
    assert "tests.rq.shop.steps.book was enqueued with depends_on=None" in warning
    queue.commit()
    assert shop.count_runs() == 2, "what the warning says: two runs that know nothing of each other"


def test_an_unmarked_job_and_one_that_is_sent_at_once_are_not_warned_of(
    shop: Shop, queue: PutsOff, order: str, caplog: pytest.LogCaptureFixture
) -> None:
    queue.enqueue(steps.unmarked, order, depends_on=None)
    shop.queue.enqueue(steps.charge, order, depends_on=None)
    queue.commit()
    queue.enqueue(steps.charge, order, depends_on=None)
    assert warnings(caplog) == []


def test_a_chain_that_is_enqueued_after_the_commit_is_one_run(
    shop: Shop, queue: PutsOff, ledger: Ledger, order: str, caplog: pytest.LogCaptureFixture
) -> None:
    queue.commit()
    charged = queue.enqueue(steps.charge, order)
    shipped = queue.enqueue(steps.book, order, depends_on=charged)
    assert shop.of(shipped).ref == shop.of(charged).ref
    shop.work()
    assert ledger.names(order) == ["charge", "book"]
    assert warnings(caplog) == []


def test_a_start_under_an_id_that_would_be_put_off_is_refused_because_the_id_would_be_lost(
    shop: Shop, queue: PutsOff, order: str
) -> None:
    with pytest.raises(UnsupportedCanvas, match=r"transaction\.on_commit"):
        durable_rq.start(order, queue, steps.charge, order)
    assert shop.count_runs() == 0
    assert shop.queue.count == 0
    queue.commit()
