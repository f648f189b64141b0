"""A worker that is written dead for its silence alone may still run its body: silence ends no attempt (P3, P4)."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

import durable_adapter as durable
from durable_adapter.declare.policy import StepPolicy
from durable_adapter.errors import Deferred
from durable_adapter.journal import Journal
from durable_adapter.journal.doubts import AGAIN, SILENT
from durable_adapter.model import SECOND, StepStatus
from durable_adapter.recovery import Sweeper
from durable_adapter.runtime.alerts import Held
from durable_adapter.runtime.doubt import SILENT_PATIENCE
from durable_adapter.runtime.host import Host
from tests.calls.conftest import NEVER, CallingEngine, Workplace
from tests.journal.making import a_run, a_step, a_worker, about, age, claim, the
from tests.servers.proxy import TcpProxy

CHARGED: list[str] = []


def look_it_up() -> Any:
    return durable.happened(CHARGED[0]) if CHARGED else durable.did_not_happen()


PROBED = StepPolicy(probe=look_it_up, settle=0)


@pytest.fixture(autouse=True)
def bank() -> list[str]:
    CHARGED.clear()
    return CHARGED


def charge() -> str:
    CHARGED.append(f"ch_{len(CHARGED) + 1}")
    return CHARGED[-1]


def silent(journal: Journal, sweeper: Sweeper, policy: StepPolicy, parent: str | None = None) -> str:
    """A step whose worker was written dead because its beat stood still."""
    a_worker(journal, "w9", parent=parent, pid=9)
    ref = a_run(journal, a_step("charge", safety=policy.safety, options=policy.stored()), "ship")
    claim(journal, ref, "charge", worker="w9")
    assert journal.workers.stood_still("w9", 0, "its beat stood still for 60 s")
    sweeper.sweep()
    return ref


def left(at_work: Workplace, ref: str, policy: StepPolicy = PROBED) -> Deferred:
    with pytest.raises(Deferred) as caught:
        at_work.step(ref, "charge", charge, policy)
    return caught.value


def elsewhere_at_once(act: Callable[[], Any]) -> Any:
    """Runs something in another thread, outside of the step that runs in this one, and waits for it."""
    done: list[Any] = []
    thread = threading.Thread(target=lambda: done.append(act()))
    thread.start()
    thread.join()
    (result,) = done
    return result


@pytest.mark.parametrize("dialect", ["postgresql", "mariadb"])
def test_a_worker_that_loses_only_its_database_charges_once(
    url: str, journal: Journal, at_work: Workplace, sweeper: Sweeper, engine: CallingEngine
) -> None:
    ref = a_run(journal, a_step("charge", safety=PROBED.safety, options=PROBED.stored()), "ship")
    with TcpProxy.before(url) as proxy:
        cut_off = Journal(proxy.url(url))
        host = Host(cut_off, engine, stale=NEVER, beat=NEVER)  # type: ignore[arg-type]
        partitioned = Workplace(cut_off, host, engine)

        def body() -> str:
            proxy.cut()
            (row,) = [w for w in journal.workers.alive() if w.id == host.worker]
            assert journal.workers.stood_still(row.id, row.beats, "its beat stood still")
            elsewhere_at_once(sweeper.sweep)
            assert "did not happen” does not count" in str(elsewhere_at_once(lambda: left(at_work, ref)))
            charged = charge()
            proxy.restore()
            return charged

        assert partitioned.step(ref, "charge", body, PROBED) == "ch_1"
        host.stop()
        cut_off.close()
    assert the(journal, ref, "charge").status is StepStatus.SUCCEEDED
    assert at_work.step(ref, "charge", charge, PROBED) == "ch_1", "a memo"
    assert CHARGED == ["ch_1"]
    assert the(journal, ref, "charge").twice_at is None


def test_what_happened_counts_of_an_attempt_that_nobody_saw_end(journal: Journal, at_work: Workplace, sweeper: Sweeper) -> None:
    ref = silent(journal, sweeper, PROBED)
    left(at_work, ref)
    charge()
    assert at_work.step(ref, "charge", charge, PROBED) == "ch_1"
    assert CHARGED == ["ch_1"]


def test_did_not_happen_of_an_attempt_that_nobody_saw_end_is_asked_again_and_held_in_the_end(
    journal: Journal, at_work: Workplace, sweeper: Sweeper, told: list[Held]
) -> None:
    ref = silent(journal, sweeper, PROBED)
    row = the(journal, ref, "charge")
    assert (row.status, row.over_at) == (StepStatus.IN_DOUBT, SILENT)
    assert not left(at_work, ref).held
    row = the(journal, ref, "charge")
    assert (row.status, row.next_check_at) == (StepStatus.IN_DOUBT, about(journal.time() + AGAIN))
    age(journal, ref, "charge", "doubt_at", by=SILENT_PATIENCE + SECOND)
    assert left(at_work, ref).held
    row = the(journal, ref, "charge")
    assert row.status is StepStatus.HELD
    assert "nobody saw its attempt end: its worker w9 stopped beating" in (row.evidence or "")
    assert (CHARGED, len(told)) == ([], 1)


def test_sweeps_do_not_put_the_same_silence_in_doubt_again(journal: Journal, sweeper: Sweeper) -> None:
    ref = silent(journal, sweeper, PROBED)
    before = the(journal, ref, "charge").doubt_at
    assert journal.due.of_dead_workers(10) == []
    assert sweeper.sweep().doubts == 0
    assert the(journal, ref, "charge").doubt_at == before


def test_did_not_happen_counts_once_its_parent_saw_the_silent_worker_end(
    journal: Journal, at_work: Workplace, sweeper: Sweeper
) -> None:
    ref = silent(journal, sweeper, PROBED, parent="p")
    left(at_work, ref)
    assert journal.workers.child_died("p", 9, "signal 9") == 0, "it is no second death"
    sweeper.sweep()
    assert the(journal, ref, "charge").over_at == about(journal.time())
    assert journal.due.of_dead_workers(10) == []
    assert at_work.step(ref, "charge", charge, PROBED) == "ch_1"
    assert CHARGED == ["ch_1"]


def test_did_not_happen_counts_once_the_time_out_of_a_silent_worker_has_passed(
    journal: Journal, at_work: Workplace, sweeper: Sweeper
) -> None:
    policy = StepPolicy(probe=look_it_up, timeout=20, settle=0)
    ref = silent(journal, sweeper, policy)
    assert "counts only in" in str(left(at_work, ref, policy))
    age(journal, ref, "charge", "over_at", by=20 * SECOND)
    assert at_work.step(ref, "charge", charge, policy) == "ch_1"


def test_an_idempotent_step_of_a_silent_worker_is_taken_over(journal: Journal, at_work: Workplace, sweeper: Sweeper) -> None:
    policy = StepPolicy(idempotent=True)
    ref = silent(journal, sweeper, policy)
    assert at_work.step(ref, "charge", charge, policy) == "ch_1"


def test_a_step_that_is_declared_with_a_probe_now_is_not_taken_over(
    journal: Journal, at_work: Workplace, sweeper: Sweeper
) -> None:
    ref = silent(journal, sweeper, StepPolicy(idempotent=True))
    left(at_work, ref)
    assert CHARGED == []
