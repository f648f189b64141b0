"""Who lives: a beat says so, a death is written once, and a process that is dead in the journal is told (section 5)."""

from __future__ import annotations

import sqlalchemy as sa

from durable_adapter.journal import Journal
from durable_adapter.journal.schema import worker
from durable_adapter.model import Cause, Death, Event, WorkerRow
from tests.journal.interleaving import Interleaving, together
from tests.journal.making import MINUTE, ONE, a_run, a_worker, about, claim, held, succeed, the


def the_worker(journal: Journal, id: str) -> WorkerRow:
    found = journal.workers.get(id)
    assert found is not None
    return found


def deaths(journal: Journal) -> list[str | None]:
    return [event["who"] for event in journal.events.since(Event.DIED, 0)]


def test_a_process_registers_with_what_is_known_of_it(journal: Journal) -> None:
    a_worker(journal, "w2", role="sweeper", parent="p", host="höst", pid=7, engine="rq", queues=["a", "b"], code_version="v1")
    row = the_worker(journal, "w2")
    assert (row.role, row.parent, row.host, row.pid, row.engine) == ("sweeper", "p", "höst", 7, "rq")
    assert (row.queues, row.code_version, row.beats, row.running) == (["a", "b"], "v1", 0, [])
    now = about(journal.time())
    assert (row.started_at, row.beat_at, row.previous_beat_at) == (now, now, now)
    assert (row.stopped_at, row.dead_at, row.death) == (None, None, None)
    assert journal.workers.get("nobody") is None


def test_registering_twice_changes_nothing(journal: Journal) -> None:
    journal.workers.beat("w1", ["ref token x"])
    a_worker(journal, "w1", host="elsewhere")
    assert (the_worker(journal, "w1").host, the_worker(journal, "w1").beats) == ("here", 1)


def test_a_beat_keeps_the_one_before_it(journal: Journal) -> None:
    assert journal.workers.beat("w1", ["ref token a"])
    first = the_worker(journal, "w1")
    assert journal.workers.beat("w1", ["ref token b", 'ref token odd "key"'])
    second = the_worker(journal, "w1")
    assert (second.beats, second.running, second.previously_running) == (
        2,
        ["ref token b", 'ref token odd "key"'],
        ["ref token a"],
    )
    assert second.previous_beat_at == first.beat_at
    assert second.beat_at >= first.beat_at


def test_a_dead_process_is_told_when_it_beats_and_so_is_one_whose_row_is_gone(journal: Journal) -> None:
    a_worker(journal, "w2", parent="p", pid=7)
    assert journal.workers.child_died("p", 7, "killed by signal 9") == 1
    assert not journal.workers.beat("w2", [])
    assert not journal.workers.beat("nobody", [])
    row = the_worker(journal, "w2")
    assert (row.dead_at, row.death, row.beats) == (about(journal.time()), Death.PARENT_SAW, 0)


def test_a_death_is_written_once(journal: Journal) -> None:
    a_worker(journal, "w2", parent="p", pid=7)
    died = together(
        *[lambda: journal.workers.child_died("p", 7, "killed")] * 2,
        *[lambda: journal.workers.stood_still("w2", 0, "silent for 60 s")] * 2,
    )
    assert sorted(died) == [0, 0, 0, 1]
    assert deaths(journal) == ["w2"]
    before = the_worker(journal, "w2")
    assert journal.workers.stood_still("w2", 0, "silent for 60 s") == 0
    assert the_worker(journal, "w2") == before


def test_a_parents_word_is_about_its_own_living_children_only(journal: Journal) -> None:
    a_worker(journal, "w2", parent="p", pid=7)
    a_worker(journal, "w3", parent="other host", pid=7)
    a_worker(journal, "w4", parent="p", pid=8)
    assert journal.workers.child_died("p", 7, "killed") == 1
    assert journal.workers.child_died("p", 9, "killed") == 0
    assert deaths(journal) == ["w2"]


def test_a_pid_that_a_parent_gives_to_another_child_means_that_the_first_one_died(journal: Journal) -> None:
    a_worker(journal, "w2", parent="p", pid=7)
    a_worker(journal, "w3", parent="p", pid=7)
    assert (the_worker(journal, "w2").death, the_worker(journal, "w3").death) == (Death.PARENT_SAW, None)
    a_worker(journal, "w4", parent=None, pid=7)
    assert the_worker(journal, "w3").death is None, "without a parent pids say nothing"


def test_a_worker_whose_counter_moved_while_it_was_watched_lives(journal: Journal) -> None:
    journal.workers.beat("w1", [])
    assert journal.workers.stood_still("w1", 0, "silent for 60 s") == 0
    assert journal.workers.beat("w1", [])


def test_a_beat_against_the_declaration_of_its_death_gives_one_winner(journal: Journal, meanwhile: Interleaving) -> None:
    for beat_first in (True, False):
        a_worker(journal, f"w-{beat_first}")

        def beat(other: Journal) -> object:
            return other.workers.beat(f"w-{beat_first}", [])

        def declare(other: Journal) -> object:
            return other.workers.stood_still(f"w-{beat_first}", 0, "silent for 60 s")

        first, second = (beat, declare) if beat_first else (declare, beat)
        running = meanwhile.stopped_after("UPDATE durable_worker", first)
        following = meanwhile.run(second)
        assert bool(running.result()) is True
        assert bool(following.result()) is False
        assert (the_worker(journal, f"w-{beat_first}").death is None) is beat_first


def test_a_process_that_stopped_by_itself_is_neither_alive_nor_dead(journal: Journal) -> None:
    journal.workers.beat("w1", ["ref token a"])
    journal.workers.stop("w1")
    row = the_worker(journal, "w1")
    assert (row.stopped_at, row.dead_at, row.running) == (about(journal.time()), None, [])
    assert journal.workers.alive() == []
    assert journal.workers.stood_still("w1", 1, "silent for 60 s") == 0
    assert deaths(journal) == []


def test_a_dead_process_does_not_become_a_stopped_one(journal: Journal) -> None:
    journal.workers.stood_still("w1", 0, "silent for 60 s")
    journal.workers.stop("w1")
    assert (the_worker(journal, "w1").stopped_at, the_worker(journal, "w1").death) == (None, Death.STOOD_STILL)


def test_the_living_are_listed_longest_silent_first(journal: Journal) -> None:
    for name in ("w2", "w3", "w4"):
        a_worker(journal, name)
    journal.workers.beat("w1", [])
    journal.workers.beat("w2", [])
    journal.workers.stop("w4")
    assert [row.id for row in journal.workers.alive()] == ["w3", "w1", "w2"]
    assert [row.id for row in journal.workers.alive(limit=1)] == ["w3"]


def test_processes_that_ended_long_ago_are_forgotten_unless_an_unsettled_step_names_them(journal: Journal) -> None:
    ref = a_run(journal, "held", "done", "begun")
    for pid, name in enumerate(("w-held", "w-done", "w-begun", "w-alive", "w-recent"), 20):
        a_worker(journal, name, parent="p", pid=pid)
    for key in ("held", "done", "begun"):
        token = claim(journal, ref, key, worker=f"w-{key}")
        if key == "held":
            journal.doubts.raise_doubt(the(journal, ref, key), token, "it died", cause=Cause.WORKER_DIED, over=True)
        elif key == "done":
            journal.ends.succeed(ref, key, token, ONE, completes_run=False)
    for pid in (20, 21, 22):
        journal.workers.child_died("p", pid, "killed")
    _silent_for(journal, 2 * 60 * MINUTE, "w-held", "w-done", "w-begun", "w-alive")
    journal.workers.stop("w-recent")
    assert journal.workers.forget_ended(journal.time() - 60 * MINUTE) == 1
    assert journal.workers.get("w-done") is None
    assert all(journal.workers.get(name) for name in ("w-held", "w-begun", "w-alive", "w-recent"))


def _silent_for(journal: Journal, span: int, *ids: str) -> None:
    statement = sa.update(worker).where(worker.c.id.in_(ids)).values(beat_at=worker.c.beat_at - span)
    journal.db.transaction(lambda conn: conn.execute(statement))


def test_held_steps_keep_their_worker_in_the_journal(journal: Journal) -> None:
    ref = a_run(journal, "charge", "ship")
    held(journal, ref, "charge")
    succeed(journal, ref, "ship")
    journal.workers.stop("w1")
    _silent_for(journal, 60 * MINUTE, "w1")
    assert journal.workers.forget_ended(journal.time()) == 0
