"""Where RQ has spent a job's `Retry`, nothing tries the step again behind its back."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from rq import Retry

from durable_adapter.model import WorkflowStatus
from tests.celery.ledger import Ledger
from tests.rq.shop import steps
from tests.rq.world import Shop


@pytest.mark.parametrize(
    ("step", "attempts"), [(steps.fail_idempotent, 2), (steps.fail_idempotent_three_times, 3)], ids=["default", "declared"]
)
def test_a_step_is_tried_as_often_as_rqs_retry_and_its_own_declaration_allow(
    shop: Shop, ledger: Ledger, order: str, step: Callable[[str], None], attempts: int
) -> None:
    job = shop.queue.enqueue(step, order, retry=Retry(max=1))
    shop.work()
    assert ledger.names(order) == ["fail"] * attempts
    assert shop.of(job).status is WorkflowStatus.FAILED
