"""A requeue of what failed for good runs nothing, and says in one line how it is tried again."""

from __future__ import annotations

import logging
import os
import re
import shlex
import subprocess
import sys
from typing import Any

import pytest
from rq.job import JobStatus

import durable_adapter.rq as durable_rq
from durable_adapter.model import WorkflowStatus
from tests.celery.ledger import Ledger
from tests.rq.shop import identity, steps
from tests.rq.world import ROOT, SOON, Shop
from tests.servers.waiting import eventually

#: The line, as it begins.
LINE = "step_not_run_again"


def requeue_all(shop: Shop) -> list[str]:
    """What `rq requeue --all` does."""
    registry = shop.queue.failed_job_registry
    ids = registry.get_job_ids()
    for job_id in ids:
        registry.requeue(job_id)
    return ids


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.getMessage().startswith(LINE)]


@pytest.mark.parametrize("function", [steps.decline, steps.fail, identity.declines])
def test_says_what_to_type(shop: Shop, ledger: Ledger, order: str, caplog: pytest.LogCaptureFixture, function: Any) -> None:
    job = durable_rq.start(order, shop.queue, function, order)
    shop.work()
    assert lines(caplog) == []
    ran = ledger.names(order)
    assert requeue_all(shop) == [job.id]
    with caplog.at_level(logging.WARNING):
        shop.work()
    assert ledger.names(order) == ran
    assert shop.rq_status(job) is JobStatus.FAILED
    (line,) = lines(caplog)
    assert f"workflow={order} " in line
    assert f"job={job.id} " in line
    assert line.endswith(f'durable-adapter -u REDIS_URL retry -- {order}"')


def test_the_command_is_one_that_shows_and_decides_nothing(
    shop: Shop, ledger: Ledger, order: str, caplog: pytest.LogCaptureFixture
) -> None:
    job = durable_rq.start(order, shop.queue, steps.decline, order)
    shop.work()
    requeue_all(shop)
    shop.work()
    found = re.search(r"durable-adapter (-u REDIS_URL .*)\"$", lines(caplog)[0])
    assert found is not None
    words = [sys.executable, "-m", "durable_adapter.cli", *shlex.split(found[1].replace("REDIS_URL", shop.url))]
    environment = {**os.environ, "DURABLE_ADAPTER_JOURNAL": shop.journal_url, "PYTHONPATH": str(ROOT)}
    told = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert "decline" in told.stdout, told
    assert shop.status(job) is WorkflowStatus.FAILED
    assert ledger.count(order, "decline") == 1


def test_a_real_worker_says_it_in_its_log(busy_shop: Shop, ledger: Ledger, order: str) -> None:
    shop = busy_shop
    job = durable_rq.start(order, shop.queue, steps.decline, order)
    with shop.worker() as worker:
        eventually(lambda: shop.rq_status(job) is JobStatus.FAILED, SOON)
        assert LINE not in worker.output
        requeue_all(shop)
        eventually(lambda: LINE in worker.output, SOON, worker.tail)
    assert ledger.count(order, "decline") == 1
