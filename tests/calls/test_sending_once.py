"""An unmarked task that a function sends is sent once; a broker that refuses it has not been sent anything."""

from __future__ import annotations

from typing import Any

import pytest

from durable_adapter.current import FUNCTION
from durable_adapter.journal import Journal
from durable_adapter.runtime.calls import RetryRequest
from durable_adapter.runtime.kinds.unmarked import Unmarked
from tests.calls.conftest import Workplace
from tests.journal.making import a_function, statuses, the_run


class Broker:
    """Takes messages, except where it is away."""

    def __init__(self) -> None:
        self.is_away = False
        self.sent: list[str] = []

    def send(self, task_id: str) -> str:
        if self.is_away:
            raise ConnectionError("the broker is away")
        self.sent.append(task_id)
        return task_id


def retried(error: BaseException | None) -> RetryRequest | None:
    return RetryRequest(error=error, delay=0, send=lambda: None) if error is not None else None


@pytest.fixture
def broker() -> Broker:
    return Broker()


def test_a_task_that_the_broker_refused_is_sent_by_a_later_wake(journal: Journal, at_work: Workplace, broker: Broker) -> None:
    ref = a_function(journal)

    def order() -> Any:
        return FUNCTION.get().call(Unmarked("mail", broker.send))  # type: ignore[union-attr]

    broker.is_away = True
    with pytest.raises(ConnectionError):
        at_work.function(ref, order, retry_request=retried)
    assert "mail#1" not in statuses(journal, ref)
    assert the_run(journal, ref).open_steps == 1
    broker.is_away = False
    (sent,) = {at_work.function(ref, order, retry_request=retried)}
    assert broker.sent == [sent]


def test_a_task_that_was_sent_is_not_sent_again(journal: Journal, at_work: Workplace, broker: Broker) -> None:
    ref = a_function(journal)

    def order() -> str:
        FUNCTION.get().call(Unmarked("mail", broker.send))  # type: ignore[union-attr]
        if len(broker.sent) == 1 and not tried:
            tried.append(1)
            raise ValueError("the next line fails")
        return "done"

    tried: list[int] = []
    with pytest.raises(ValueError, match="the next line"):
        at_work.function(ref, order, retry_request=retried)
    assert at_work.function(ref, order, retry_request=retried) == "done"
    assert len(broker.sent) == 1
