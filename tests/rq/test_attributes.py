"""`durable.attributes` around what enqueues jobs."""

from __future__ import annotations

from decimal import Decimal

import durable_adapter as durable
import durable_adapter.rq as durable_rq
from durable_adapter.rq.stamps import stamp_of, without_stamp
from tests.rq.shop import steps
from tests.rq.world import Shop


def test_jobs_that_are_enqueued_in_the_block_carry_them(shop: Shop, order: str) -> None:
    with durable.attributes(order=order, total=Decimal("74.00"), amount="total"):
        alone = shop.queue.enqueue(steps.charge, order)
        behind = shop.queue.enqueue(steps.mail, order, depends_on=alone)
        durable_rq.start(order, shop.queue, steps.charge, order)
    shop.queue.enqueue(steps.charge, order)
    runs = shop.binding.journal.reads.listed()
    carried = [run for run in runs if run.attributes]
    assert [run.attributes for run in carried] == [{"order": order, "total": "74.00"}] * 2
    assert [run.amount for run in carried] == ["total"] * 2
    assert len(runs) == 3, "the job that depends on another joined its run"
    assert stamp_of(behind)[0] == stamp_of(alone)[0]  # type: ignore[index]
    assert without_stamp(behind.meta) == without_stamp(alone.meta) == {}
