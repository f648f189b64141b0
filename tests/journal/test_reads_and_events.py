"""What people and the runtime ask the journal, and the log of what is not the happy path."""

from __future__ import annotations

import time

import pytest

from durable_adapter.journal import Journal
from durable_adapter.model import (
    Cause,
    Effect,
    Event,
    Kind,
    Shape,
    StepStatus,
    Stored,
    WorkflowStatus,
    new_ref,
)
from tests.journal.making import (
    DECLINED,
    MINUTE,
    ONE,
    a_dispatch,
    a_function,
    a_run,
    a_step,
    a_worker,
    age,
    change,
    claim,
    fail,
    held,
    in_doubt,
    keys,
    marked,
    succeed,
    the,
    the_run,
)


def refs(found: list[object]) -> list[str]:
    return [run.ref for run in found]  # type: ignore[attr-defined]


def test_the_steps_of_a_run_come_by_position(journal: Journal) -> None:
    ref = a_run(journal, "c", "a", "b")
    a_run(journal, "other")
    assert [s.key for s in journal.reads.steps(ref)] == ["c", "a", "b"]
    assert journal.reads.steps("0" * 32) == []
    assert journal.reads.run("0" * 32) is None


def test_the_latest_run_of_an_id_is_found(journal: Journal) -> None:
    a_run(journal, id="order-42")
    second = a_run(journal, id="order-42", run=2)
    a_run(journal, id="order-42", run=3, namespace="other")
    found = journal.reads.latest("default", "order-42")
    assert found is not None
    assert found.ref == second
    assert journal.reads.latest("default", "order-43") is None


def test_runs_are_listed_newest_first_without_their_values(journal: Journal) -> None:
    old = a_run(journal, "charge", arguments=Stored("json/1", b"[1]"), plan=b"plan")
    age(journal, old, None, "created_at")
    new = a_run(journal, "charge", namespace="other", name="refund")
    done = a_run(journal, "charge")
    age(journal, done, None, "created_at", by=30 * MINUTE)
    succeed(journal, done, "charge", completes_run=True)
    listed = journal.reads.listed
    assert [run.ref for run in listed()] == [new, done, old]
    assert [run.ref for run in listed(limit=1)] == [new]
    assert [run.ref for run in listed(namespace="default")] == [done, old]
    assert [run.ref for run in listed(name="refund")] == [new]
    assert [run.ref for run in listed(unfinished=True)] == [new, old]
    assert [run.ref for run in listed(statuses=[WorkflowStatus.SUCCEEDED])] == [done]
    assert [run.ref for run in listed(statuses=[WorkflowStatus.RUNNING])] == [new, old]
    assert [run.ref for run in listed(since=journal.time() - 45 * MINUTE)] == [new, done]
    assert all((run.arguments, run.plan, run.outcome) == (None, None, None) for run in listed())
    assert the_run(journal, old).plan == b"plan"


def test_unfinished_runs_are_walked_through_in_batches(journal: Journal) -> None:
    made = sorted(a_run(journal, "charge") for _ in range(5))
    finished = a_run(journal, "charge")
    succeed(journal, finished, "charge", completes_run=True)
    walked: list[str] = []
    while batch := journal.reads.unfinished(after=walked[-1] if walked else "", limit=2):
        walked += [run.ref for run in batch]
    assert walked == made


def test_several_runs_and_their_steps_are_read_at_once(journal: Journal) -> None:
    first, second = a_run(journal, "b", "a"), a_run(journal, "c")
    assert set(journal.reads.runs([first, second, "0" * 32])) == {first, second}
    assert {ref: [s.key for s in found] for ref, found in journal.reads.steps_of([first, second]).items()} == {
        first: ["b", "a"],
        second: ["c"],
    }
    assert journal.reads.runs([]) == {}
    assert journal.reads.steps_of([]) == {}


def test_unsettled_steps_are_those_that_began_and_have_no_outcome(journal: Journal) -> None:
    ref = a_run(journal, "planned", "begun", "doubtful", "held", "done", "failed")
    claim(journal, ref, "begun")
    in_doubt(journal, ref, "doubtful")
    held(journal, ref, "held")
    succeed(journal, ref, "done")
    fail(journal, ref, "failed", Effect.UNKNOWN, fails_run=False)
    assert keys(journal.reads.unsettled()) == ["begun", "doubtful", "held"]
    assert len(journal.reads.unsettled(limit=2)) == 2
    assert keys(marked(journal)) == ["failed"]


def moved_past(journal: Journal, queue: str, at: int, engine: str = "celery", namespace: str = "default") -> bool:
    return journal.reads.queues_moved_to(namespace).get((engine, queue), 0) > at


def has_listened(journal: Journal, queue: str | None, at: int, *, engine: str, namespace: str) -> bool:
    return any(each.takes(engine, queue) and each.beat_at >= at for each in journal.workers.alive(namespace=namespace))


def test_a_queue_has_moved_past_a_message_when_one_that_was_sent_later_has_begun(journal: Journal) -> None:
    at = journal.time() - 30 * MINUTE
    later = a_run(journal, a_step("charge", queue="money"), a_step("ship", queue="parcels"))
    claim(journal, later, "charge")
    assert moved_past(journal, "money", at)
    assert not moved_past(journal, "money", at + 60 * MINUTE)
    assert not moved_past(journal, "parcels", at), "it has not begun"
    assert not moved_past(journal, "money", at, engine="rq"), "that is another queue"
    assert not moved_past(journal, "money", at, namespace="billing"), "that may be another broker's"


def test_what_was_sent_before_a_message_or_never_began_says_nothing_about_it(journal: Journal) -> None:
    at = journal.time() - 30 * MINUTE
    earlier = a_run(journal, a_step("charge", queue="money"))
    age(journal, earlier, "charge", "created_at")
    claim(journal, earlier, "charge")
    assert not moved_past(journal, "money", at), "its own message may have been sent before, and have waited as well"
    held(journal, a_run(journal, a_step("charge", queue="parcels")), "charge")
    old = a_run(journal, a_step("charge", queue="letters"))
    held(journal, old, "charge")
    age(journal, old, "charge")
    assert moved_past(journal, "parcels", at)
    assert not moved_past(journal, "letters", at), "it has been held since before"
    untried = a_run(journal, a_step("charge", queue="mail"))
    assert journal.doubts.raise_doubt(
        the(journal, untried, "charge"), None, "its message is gone", cause=Cause.WORKER_DIED, over=True
    )
    assert not moved_past(journal, "mail", at)


def test_a_dispatched_step_is_on_the_queue_of_the_engine_that_it_was_sent_to(journal: Journal) -> None:
    ref = a_function(journal)
    journal.claims.plan_new(a_dispatch(ref, "charge#1", queue="money", engine="rq"))
    claim(journal, ref, "charge#1")
    at = journal.time() - MINUTE
    assert moved_past(journal, "money", at, engine="rq")
    assert not moved_past(journal, "money", at, engine="celery")


def test_a_worker_with_the_plugin_has_been_on_a_queue_if_it_lives_and_serves_it(journal: Journal) -> None:
    journal.workers.stop("w1")
    a_worker(journal, "w2", queues=["money", "parcels", "zahlungen-ä"])
    at = journal.time() - MINUTE

    def hooked(queue: str | None, at: int = at, engine: str = "celery", namespace: str = "default") -> bool:
        return has_listened(journal, queue, at, engine=engine, namespace=namespace)

    assert hooked("money")
    assert hooked("parcels")
    assert hooked("zahlungen-ä")
    assert hooked(None)
    assert not hooked("mail")
    assert not hooked("mon"), "half a name is another queue"
    assert not hooked("money", journal.time() + MINUTE)
    assert not hooked("money", engine="rq"), "another engine's queue of that name"
    a_worker(journal, "w3", queues=[])
    assert hooked("mail"), "a worker that does not say what it serves may serve everything"
    assert not hooked("mail", engine="rq")
    assert hooked("mail", namespace="another"), "a worker of an earlier release, which did not say its namespace"


def test_a_worker_of_another_namespace_listens_to_another_broker_perhaps(journal: Journal) -> None:
    journal.workers.stop("w1")
    at = journal.time() - MINUTE
    a_worker(journal, "w2", queues=["money"], namespace="another")
    assert not has_listened(journal, "money", at, engine="celery", namespace="default")
    assert has_listened(journal, "money", at, engine="celery", namespace="another")
    assert not [found for found in journal.reads.ever_listened("default") if found[2] == ["money"]]
    assert [found for found in journal.reads.ever_listened("another") if found[2] == ["money"]]


def test_a_sweeper_speaks_for_the_queues_of_the_worker_around_it_and_for_none_without_one(journal: Journal) -> None:
    journal.workers.stop("w1")
    at = journal.time() - MINUTE
    a_worker(journal, "alone", role="sweeper", engine="celery,rq", queues=[])
    assert not has_listened(journal, "money", at, engine="celery", namespace="default")
    a_worker(journal, "inside", role="sweeper", engine="celery,rq", queues=["money"])
    for engine in ("celery", "rq"):
        assert has_listened(journal, "money", at, engine=engine, namespace="default")
    assert not has_listened(journal, "money", at, engine="cel", namespace="default")


def test_events_of_a_run_come_oldest_first_with_what_they_tell(journal: Journal) -> None:
    ref = a_run(journal, "charge")
    journal.events.note(Event.SUPPRESSED, ref=ref, key="charge", token="t", who="w1", why="a duplicate", count=2)
    journal.events.note(Event.REFUSED, ref=ref, why="another journal's")
    journal.events.note(Event.REFUSED, ref=new_ref())
    first, second = journal.events.of(ref)
    assert (first["kind"], first["key"], first["token"], first["who"], first["why"]) == (
        "suppressed",
        "charge",
        "t",
        "w1",
        "a duplicate",
    )
    assert (first["detail"], second["detail"]) == ({"count": 2}, {})
    assert len(journal.events.of(ref, limit=1)) == 1
    assert [e["kind"] for e in journal.events.since(Event.REFUSED, first["at"])] == ["refused", "refused"]
    assert journal.events.since(Event.REFUSED, second["at"] + MINUTE) == []


def test_an_event_is_written_with_the_change_that_it_tells_of_or_not_at_all(journal: Journal) -> None:
    ref = a_run(journal, "charge")
    with pytest.raises(ZeroDivisionError), journal.db.open_transaction() as conn:
        journal.events.write(conn, Event.REFUSED, ref=ref)
        raise ZeroDivisionError
    assert journal.events.of(ref) == []


def test_runs_are_found_by_their_id_their_reference_and_the_beginning_of_their_id(journal: Journal) -> None:
    first = a_run(journal, id="t1.0")
    second = a_run(journal, id="t1.1")
    a_run(journal, id="t12.0")
    a_run(journal, id="t1.0", namespace="other")
    latest = a_run(journal, id="t1.0", run=2)
    for number, ref in enumerate((latest, second, first)):
        change(journal, ref, created_at=1_000 - number)
    own, begins = journal.surveys.named("default", "t1")
    assert (own, [run.ref for run in begins]) == ([], [latest, second, first])
    assert [run.ref for run in journal.surveys.named("default", "t1.0")[0]] == [latest]
    assert [run.ref for run in journal.surveys.named("other", first)[0]] == [first]


def test_troubled_runs_are_those_with_an_unsettled_step_or_something_to_look_at(journal: Journal) -> None:
    quiet, begun, shown, marked = (a_run(journal, "charge") for _ in range(4))
    claim(journal, begun, "charge")
    fail(journal, shown, "charge", Effect.UNKNOWN)
    journal.runs.mark(marked, "unmarked")
    assert journal.reads.troubled_refs() == {begun, shown, marked}
    assert quiet not in journal.reads.troubled_refs()


def test_unfinished_references_come_in_order_of_their_next_look(journal: Journal) -> None:
    now = journal.time()
    made = [a_run(journal, "charge", shape=Shape.FUNCTION) for _ in range(5)]
    for number, ref in enumerate(made):
        change(journal, ref, next_check_at=now + (number // 2) * MINUTE)
    change(journal, made[4], status="suspended", wake_at=now + MINUTE)
    expected = sorted(made[:2]) + sorted(made[2:4])
    walked: list[tuple[int, str]] = []
    while batch := journal.reads.unfinished_refs("default", now, after=walked[-1] if walked else (0, ""), limit=2):
        walked += batch
    assert [ref for _, ref in walked] == expected
    assert made[4] in [ref for _, ref in journal.reads.unfinished_refs("default", now, asleep=True)]
    assert journal.reads.unfinished_refs("other", now) == []


def test_slim_rows_leave_out_what_may_be_large(journal: Journal) -> None:
    ref = a_run(journal, a_step("charge", arguments=ONE, message=b"m"), "ship", plan=b"p", arguments=ONE)
    fail(journal, ref, "charge")
    run = journal.reads.slim_runs([ref])[ref]
    assert (run.plan, run.arguments, run.error, run.status) == (None, None, None, WorkflowStatus.FAILED)
    charge, ship = journal.reads.slim_steps([ref])[ref]
    assert (charge.arguments, charge.message, charge.error) == (None, None, DECLINED)
    assert ship.status is StepStatus.CANCELLED
    assert journal.reads.slim_runs([]) == journal.reads.slim_steps([]) == {}


def test_several_workers_are_read_by_id_living_or_not(journal: Journal) -> None:
    a_worker(journal, "w2")
    journal.workers.stop("w2")
    assert set(journal.reads.workers(["w1", "w2", "nobody"])) == {"w1", "w2"}
    assert journal.reads.workers([]) == {}


def test_a_refused_message_says_whether_the_run_or_the_step_is_missing(journal: Journal) -> None:
    ref, other = a_run(journal, "charge", namespace="shop"), new_ref()
    for run, key in ((ref, "charge"), (ref, "mail"), (other, "charge")):
        journal.events.note(Event.REFUSED, ref=run, key=key, who="w1", why="it does not fit", name="pay", namespace="default")
    found = {(m.ref, m.key): (m.lacks_run, m.lacks_step, m.namespace) for m in journal.reads.refused()}
    assert found == {
        (ref, "charge"): (False, False, "shop"),
        (ref, "mail"): (False, True, "shop"),
        (other, "charge"): (True, False, "default"),
    }
    assert {m.ref for m in journal.reads.refused(ref=other)} == {other}


def test_what_a_person_acknowledged_is_not_told_again_until_another_comes(journal: Journal) -> None:
    ref = a_run(journal, "charge")
    journal.events.note(Event.REFUSED, ref=ref, key="mail", who="w1", why="it does not fit", name="pay")
    fail(journal, ref, "charge", Effect.UNKNOWN)
    journal.verdicts.acknowledge(ref, "charge", who="me", why="written off")
    assert len(journal.reads.refused()) == 1, "that was about a step"
    time.sleep(0.002)  # SQLite's clock counts milliseconds
    journal.runs.acknowledge(ref, who="me", why="an old message")
    assert journal.reads.refused() == []
    time.sleep(0.002)
    journal.events.note(Event.REFUSED, ref=ref, key="mail", who="w1", why="it does not fit", name="pay")
    assert len(journal.reads.refused()) == 1


def test_history_is_walked_back_in_batches(journal: Journal) -> None:
    now = journal.time()
    made = [a_run(journal, "charge") for _ in range(4)]
    for number, ref in enumerate(made):
        change(journal, ref, created_at=now - number * MINUTE)
    newest = journal.reads.newest_refs("default", limit=2)
    assert [ref for _, ref in newest] == made[:2]
    assert [ref for _, ref in journal.reads.newest_refs(before=newest[-1][0])] == made[2:]
    assert [ref for _, ref in journal.reads.newest_refs(since=now - 90 * 1_000_000)] == made[:2]


def test_runs_with_an_engines_task_are_found_among_several(journal: Journal) -> None:
    ref = a_run(journal, a_step("charge", task_id="task-1"), a_step("legacy", kind=Kind.UNMARKED, task_id="task-2"))
    other = a_run(journal, a_step("charge", task_id="task-3"))
    assert journal.reads.with_task([ref, other], "task-2") == [ref]
    assert journal.reads.with_task([], "task-2") == []


def test_the_database_says_what_it_is(journal: Journal) -> None:
    server = journal.reads.server()
    assert server["dialect"] == journal.db.dialect_name
    assert server["version"]
