"""A body that ends otherwise than by a value or an error of its own: what the journal makes of it, and what RQ shows.

On a real worker. What RQ shows is what it shows of the same function without a mark.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from rq.job import Job, JobStatus

from durable_adapter.model import Effect, StepStatus, WorkflowStatus
from durable_adapter.runtime.values import encode
from tests.celery.ledger import Ledger
from tests.rq.shop import ends, steps
from tests.rq.world import SOON, Shop, prepare, started_worker
from tests.servers.databases import Databases
from tests.servers.process import RunningProcess
from tests.servers.unavailable import Unavailable
from tests.servers.waiting import eventually

QUEUE = "durable-test-ends"
HELD, FAILED = StepStatus.HELD, StepStatus.FAILED
#: How a body may end; what becomes of a step of which nothing is declared; what RQ shows of the job.
WAYS: dict[str, tuple[StepStatus, JobStatus]] = {
    "sys.exit(0)": (HELD, JobStatus.FAILED),
    "sys.exit(3)": (HELD, JobStatus.FAILED),
    "KeyboardInterrupt": (HELD, JobStatus.FAILED),
    "BaseException": (HELD, JobStatus.FAILED),
    "an error without words": (HELD, JobStatus.FAILED),
    "StopRequested": (FAILED, JobStatus.FAILED),
    "AbandonedJobError": (FAILED, JobStatus.FAILED),
    "MemoryError": (FAILED, JobStatus.FAILED),
    "RecursionError": (FAILED, JobStatus.FAILED),
    "timeout": (FAILED, JobStatus.FAILED),
    "os._exit(0)": (HELD, JobStatus.STARTED),
    "os._exit(1)": (HELD, JobStatus.FAILED),
    "os.abort()": (HELD, JobStatus.FAILED),
    "a segmentation fault": (HELD, JobStatus.FAILED),
    "SIGTERM": (HELD, JobStatus.FAILED),
    "SIGKILL": (HELD, JobStatus.FAILED),
    "stop command": (HELD, JobStatus.STOPPED),
}
#: Ends after which the process goes on.
IN_PROCESS = ("sys.exit(0)", "sys.exit(3)", "KeyboardInterrupt", "BaseException", "an error without words")
REFERENCE = Path(__file__).parents[2] / "docs" / "reference" / "ends-rq.md"


@pytest.fixture(scope="module")
def journal(databases: Databases) -> str:
    """A journal for several processes: PostgreSQL; SQLite where there is none."""
    try:
        return databases.fresh("postgresql", prepare)
    except Unavailable:
        return databases.fresh("sqlite", prepare)


@pytest.fixture(scope="module")
def worker(redis_url: str, journal: str, directory: Path) -> Iterator[RunningProcess]:
    """A worker that forks; only its horses end."""
    with started_worker(redis_url, journal, directory, QUEUE) as process:
        yield process


@pytest.fixture
def shop(make_shop: Callable[..., Shop], journal: str, worker: RunningProcess) -> Iterator[Shop]:
    """This process publishes to the worker. If the test fails, the worker's log is shown."""
    made = make_shop(journal)
    made.name = QUEUE
    seen = len(worker.output)
    yield made
    assert worker.returncode is None, worker.tail()
    print(f"--- the worker's log\n{worker.output[seen:]}")


def options(how: str) -> dict[str, Any]:
    return {"job_timeout": 1} if how == "timeout" else {}


def ended(shop: Shop, job: Job, status: JobStatus) -> None:
    eventually(lambda: shop.rq_status(job) is status, SOON, lambda: f"{shop.rq_status(job)} to be {status}")


@pytest.mark.parametrize("how", WAYS)
def test_undeclared_it_is_done_once_and_rq_shows_what_it_shows_plainly(shop: Shop, ledger: Ledger, order: str, how: str) -> None:
    expected, shown = WAYS[how]
    plain = shop.queue.enqueue(ends.charge_plainly, f"{order}-plain", how, **options(how))
    job = shop.queue.enqueue(ends.charge, order, how, **options(how))
    book = shop.queue.enqueue(steps.book, order, depends_on=job)
    eventually(lambda: ledger.count(order, "charge"), SOON)
    row = shop.step_is(job, expected)
    ended(shop, plain, shown)
    ended(shop, job, shown)
    if expected is FAILED:
        assert row.effect is Effect.UNKNOWN
    else:
        assert shop.status(job) is WorkflowStatus.RUNNING
    shop.sweep(90)
    shop.sweep(900)
    assert ledger.names(order) == ["charge"]
    assert shop.rq_status(book) in (JobStatus.DEFERRED, JobStatus.CANCELED)


@pytest.mark.parametrize("how", [how for how, (step, _) in WAYS.items() if step is HELD and how not in IN_PROCESS])
def test_idempotent_it_is_done_again_and_the_chain_goes_on(shop: Shop, ledger: Ledger, order: str, how: str) -> None:
    job = shop.queue.enqueue(ends.charge_idempotent, order, how)
    book = shop.queue.enqueue(steps.book, order, depends_on=job)
    ended(shop, book, JobStatus.FINISHED)
    assert len({entry["key"] for entry in ledger.entries(order, "charge")}) == 1
    assert ledger.names(order) == ["charge", "charge", "book"]
    assert shop.settled(job).status is WorkflowStatus.SUCCEEDED
    assert shop.rq_status(job) is JobStatus.FINISHED


@pytest.mark.parametrize("how", ["os._exit(0)", "sys.exit(0)", "stop command"])
def test_a_verdict_brings_it_back(shop: Shop, ledger: Ledger, order: str, how: str) -> None:
    """Whatever RQ shows of it."""
    job = shop.queue.enqueue(ends.charge, order, how)
    book = shop.queue.enqueue(steps.book, order, depends_on=job)
    row = shop.step_is(job, HELD)
    ended(shop, job, WAYS[how][1])
    shop.journal.verdicts.happened(row, encode("found"), who="me", why="the provider says so")
    ended(shop, book, JobStatus.FINISHED)
    assert shop.value(job) == "found"
    assert ledger.names(order) == ["charge", "book"]


def test_every_way_is_on_the_page_with_what_becomes_of_it() -> None:
    rows = [line.strip("| ").split(" | ") for line in REFERENCE.read_text().splitlines() if line.startswith("|")]
    told = {row[0].strip("`"): (row[1], row[2]) for row in rows if len(row) > 2}
    for how, (step, shown) in WAYS.items():
        assert how in told, how
        assert step.value in told[how][0], how
        assert f"`{shown.value}`" in told[how][1], how
