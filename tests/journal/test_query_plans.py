"""A million finished steps make nothing slower: every statement of the journal, explained by PostgreSQL as it is sent.

Each is run twice: first to be explained, and rolled back, then for what it is there for. So that none is forgotten, every
place in the code that sends a statement must have been seen to do so.
"""

from __future__ import annotations

import ast
import contextlib
import inspect
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from psycopg.pq import TransactionStatus
from psycopg.sql import SQL, Composed, Literal

import durable_adapter.journal
from durable_adapter.errors import IllegalTransition
from durable_adapter.journal import Journal
from durable_adapter.journal.database import Database, Hot
from durable_adapter.journal.migrations import migrate
from durable_adapter.journal.schema import event, step, workflow
from durable_adapter.model import (
    SECOND,
    Attention,
    Cause,
    Effect,
    Event,
    Kind,
    Safety,
    StepStatus,
    WorkflowStatus,
    new_ref,
    new_token,
)
from tests.journal.making import (
    DECLINED,
    MINUTE,
    NOTHING,
    ONE,
    TIMED_OUT,
    a_call,
    a_dispatch,
    a_function,
    a_run,
    a_step,
    a_worker,
    a_workflow,
    change,
    claim,
    fail,
    held,
    in_doubt,
    succeed,
    the,
)
from tests.servers import Databases, Unavailable

pytestmark = pytest.mark.slow

ROOMS = Path(inspect.getfile(durable_adapter.journal)).parent
#: Of the rooms' files, those that send no statement of their own about what is in the tables.
PASS_ON = ("database.py", "migrations.py", "sessions.py")
#: What sends a statement that it is given: methods of `Database`, of a connection, and of a statement that is compiled once.
SENDERS = {
    name
    for sender in (Database, Hot, sa.Connection)
    for name, method in inspect.getmembers(sender, inspect.isfunction)
    if name in ("run", "run_many") or ("statement" in inspect.signature(method).parameters and name != "hot")
}
#: The tables that grow with the history. Of workers there are few, and it does not matter how they are read.
HISTORY = (workflow, step, event)
DAY = 86_400 * SECOND
DID_NOT = Effect.DID_NOT_HAPPEN

#: Finished runs of four steps each.
FINISHED = 250_000
#: Runs of each sort that have not finished, or that somebody should look at.
UNFINISHED = 1_000
#: Rows that one part of a statement may read: more than there are of unfinished work, and a small part of the history.
MANY = 50_000

#: Methods and functions of which no statement has to keep off the history, with the reason.
EXEMPT = {
    "Turns.in_one": "it builds a statement",
    "Journal.compile_hot": "it compiles statements, and sends none",
    "Journal.close": "it sends nothing",
    "Ends._ended.write": "for SQLite and MySQL, where the end of a step and what it releases cannot be one statement",
    "Ends._write.write": "for SQLite and MySQL, where the end of a step and of its run cannot be one statement",
}
#: What people may look for although there is no index for it: one would cost writes for every run.
SEARCHES: dict[str, Callable[[Journal], object]] = {
    "list --name, a name that is rare": lambda journal: journal.reads.listed(name="no such name"),
    "list --status, a status that is rare": lambda journal: journal.reads.listed(statuses=[WorkflowStatus.COMPENSATED]),
}

_RUN = {
    "ref": "lpad(to_hex(n), 32, '0')", "namespace": "'default'", "id": "'order-' || n", "run": "1", "name": "'order'",
    "shape": "'canvas'", "engine": "'celery'", "mode": "'enforce'", "status": "'succeeded'", "declared": "mod(n, 2) = 0",
    "plan": "decode(repeat('7b', 100), 'hex')", "resends": "0", "open_steps": "0", "created_at": "{at}", "ended_at": "{at} + 30",
}  # fmt: skip
_STEP = {
    "ref": "lpad(to_hex(n), 32, '0')", "key": "'step ' || p", "position": "p", "name": "'shop.step'", "kind": "'step'",
    "status": "'succeeded'", "attempt": "1", "takeovers": "0", "token": "lpad(to_hex(8 * n + p), 16, '0')",
    "worker": "'living-' || mod(n, 30)", "queue": "'celery'", "task_id": "n || '-' || p", "outcome": "'\\x31'",
    "outcome_codec": "'json/1'", "safety": "'protected'", "pivot": "false", "created_at": "{at}", "begun_at": "{at} + 10",
    "ended_at": "{at} + 20",
}  # fmt: skip
_EVENT = {
    "at": "{at}", "ref": "lpad(to_hex(n), 32, '0')", "key": "'step 0'", "who": "'living-1'", "why": "'it happened long ago'",
    "kind": "CASE mod(n, 3) WHEN 0 THEN 'operator' WHEN 1 THEN 'in_doubt' ELSE 'attempt_failed' END",
}  # fmt: skip
_DUE, _LATER = {"next_check_at": "{now} - mod(n, 1000) * 1000"}, {"next_check_at": "{now} + 600000000 + n * 1000"}
_OPEN_RUN = _RUN | _LATER | {"status": "'running'", "open_steps": "1", "ended_at": "NULL"}
_NOT_YET = dict.fromkeys(("token", "worker", "begun_at", "ended_at", "outcome", "outcome_codec"), "NULL")
_PLANNED = _STEP | _NOT_YET | {"status": "'planned'", "attempt": "0"}
_TRIED = _PLANNED | {"attempt": "1", "token": _STEP["token"], "begun_at": "{at} + 10"}
_BEGUN = _TRIED | {"status": "'begun'", "worker": "'living-' || mod(n, 30)"}
_BY_THE_DEAD = _BEGUN | {"worker": "'dead-' || mod(n, 30)"}
_IN_DOUBT = _BY_THE_DEAD | {"status": "'in_doubt'", "doubt": "'it died'", "doubt_at": "{at}", "over_at": "{at}"}
_FAILED = _TRIED | {"status": "'failed'", "ended_at": "{at} + 20"}

#: What is unfinished or to be looked at: the run, and its second step. The first has succeeded, the third is planned.
SORTS: dict[str, tuple[dict[str, str], dict[str, str]]] = {
    "planned": (_OPEN_RUN, _PLANNED),
    "due": (_OPEN_RUN | _DUE, _PLANNED),
    "waiting": (_OPEN_RUN, _TRIED | _LATER | {"status": "'waiting'"}),
    "to be tried again": (_OPEN_RUN, _TRIED | _DUE | {"status": "'waiting'"}),
    "begun": (_OPEN_RUN, _BEGUN),
    "timed out": (_OPEN_RUN, _BEGUN | _DUE | {"deadline_at": "{now} - 1"}),
    "begun by the dead": (_OPEN_RUN, _BY_THE_DEAD),
    "in doubt": (_OPEN_RUN, _IN_DOUBT | _DUE),
    "held": (_OPEN_RUN, _IN_DOUBT | {"status": "'held'"}),
    "asleep": (
        _OPEN_RUN | {"shape": "'function'", "status": "'suspended'", "wake_at": _LATER["next_check_at"]},
        _TRIED | _LATER | {"kind": "'sleep'", "status": "'waiting'"},
    ),
    "rolling back": (_OPEN_RUN | {"status": "'rolling_back'"}, _PLANNED | {"kind": "'compensation'", "target": "'step 0'"}),
    "failed": (_RUN | {"status": "'failed'"}, _FAILED | {"effect": "'unknown'", "attention": "'effect_unknown'"}),
    "not undone": (_RUN | {"status": "'compensation_failed'", "attention": "'undo_failed'"}, _FAILED),
}


@pytest.fixture(scope="module")
def journal(databases: Databases) -> Iterator[Journal]:
    """A journal with a million finished steps, on a PostgreSQL that has seen what is in its tables."""
    try:
        url = databases.fresh("postgresql")
    except Unavailable as reason:
        pytest.skip(str(reason))
    found = Journal(url, connect_args={"options": "-c synchronous_commit=off -c jit=off"})
    migrate(found)
    fill(found)
    yield found
    found.close()
    databases.drop(url)


def fill(journal: Journal) -> None:
    """What is unfinished is older than all that finished: who looks for it in the history has all of that to go through."""
    for number in range(30):
        a_worker(journal, f"living-{number}")
        a_worker(journal, f"dead-{number}", parent="parent", pid=number)
        journal.workers.child_died("parent", number, "signal 9")
    now = journal.time()
    step_by_step = 89 * DAY // (FINISHED + len(SORTS) * UNFINISHED)
    times = {"now": now, "at": f"{now - 90 * DAY} + n * {step_by_step}::bigint"}

    def insert(table: sa.Table, columns: Mapping[str, str], rows: str) -> str:
        return f"INSERT INTO {table} ({', '.join(columns)}) SELECT {', '.join(columns.values()).format(**times)} FROM {rows}"

    statements = [f"ALTER TABLE {table} SET UNLOGGED" for table in HISTORY]
    for number, (run, second) in enumerate(SORTS.values()):
        runs = f"generate_series({number * UNFINISHED + 1}, {(number + 1) * UNFINISHED}) n"
        statements.append(insert(workflow, run, runs))
        for position, row in enumerate((_STEP, second, _PLANNED)):
            statements.append(insert(step, row, f"{runs}, generate_series({position}, {position}) p"))
    first = len(SORTS) * UNFINISHED + 1
    runs = f"generate_series({first}, {first + FINISHED - 1}) n"
    statements += [
        insert(workflow, _RUN, runs),
        insert(step, _STEP, f"{runs}, generate_series(0, 3) p"),
        insert(event, _EVENT, f"{runs} WHERE mod(n, 3) = 0"),
        insert(event, _EVENT | {"kind": "'refused'"}, f"{runs} WHERE mod(n, 1000) = 0"),
    ]
    with journal.db.engine.connect() as connection:
        for statement in [*statements, "ANALYZE"]:
            connection.exec_driver_sql(statement)


Plan = dict[str, Any]


@dataclass(frozen=True)
class Sent:
    """A statement that the journal sent, which function sent it, on whose behalf, and how PostgreSQL ran it."""

    statement: str
    parameters: Any
    function: str
    file: str
    line: int
    methods: frozenset[str]
    plan: Plan | None

    def __str__(self) -> str:
        return f"{self.function} ({self.file}:{self.line})\n  {' '.join(self.statement.split())}"


@contextlib.contextmanager
def explained(journal: Journal) -> Iterator[list[Sent]]:
    """The statements that the journal's rooms send within the block, each explained just before it is sent."""
    found: list[Sent] = []

    def note(conn: sa.Connection, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        rooms = list(frames_of_the_rooms())
        if not rooms or statement in ("BEGIN", "COMMIT", "ROLLBACK"):
            return
        given = parameters[0] if isinstance(parameters, list) else parameters
        names = [frame.f_code.co_qualname.replace(".<locals>", "").replace(".<lambda>", "") for frame in rooms]
        found.append(
            Sent(
                statement,
                given,
                function=names[0],
                file=Path(rooms[0].f_code.co_filename).name,
                line=rooms[0].f_lineno,
                methods=frozenset(".".join(name.split(".")[:2]) for name in names),
                plan=analyzed(driver(conn), statement, given),
            )
        )

    engine = journal.db.engine
    sa.event.listen(engine, "before_cursor_execute", note)
    try:
        yield found
    finally:
        sa.event.remove(engine, "before_cursor_execute", note)


def frames_of_the_rooms() -> Iterator[FrameType]:
    """The frames of the journal's own code, without what only passes statements on, the innermost first."""
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        file = Path(frame.f_code.co_filename)
        if file.parent == ROOMS and file.name not in PASS_ON:
            yield frame
        frame = frame.f_back


def driver(conn: sa.Connection) -> psycopg.Connection[Any]:
    """The driver's own connection: what is sent there is not listened to."""
    found = conn.connection.driver_connection
    assert isinstance(found, psycopg.Connection)
    return found


def analyzed(connection: psycopg.Connection[Any], statement: str, parameters: Any) -> Plan | None:
    """The plan by which PostgreSQL ran a statement, what it did being rolled back; None where there is nothing to plan."""
    if statement.split(maxsplit=1)[0] not in ("SELECT", "INSERT", "UPDATE", "DELETE", "WITH"):
        return None
    inside = connection.info.transaction_status == TransactionStatus.INTRANS
    connection.execute("SAVEPOINT explained" if inside else "BEGIN")
    try:
        explain: Any = f"EXPLAIN (ANALYZE, TIMING OFF, FORMAT JSON) {statement}"
        return plan_of(connection.execute(explain, parameters, prepare=False))
    except psycopg.errors.UniqueViolation:
        return None  # it will be refused in earnest, too
    finally:
        connection.execute("ROLLBACK TO explained" if inside else "ROLLBACK")


def settled(connection: psycopg.Connection[Any], statement: str, parameters: Mapping[str, Any]) -> Plan:
    """The plan that PostgreSQL stays with when a statement is prepared, as the driver does with what it sends often."""
    names: list[str] = []

    def numbered(found: re.Match[str]) -> str:
        if found[0] == "%%":
            return "%"
        names.append(found[1])
        return f"${len(names)}"

    prepare: Any = f"PREPARE explained AS {re.sub(r'%%|%[(]([^)]+)[)]s', numbered, statement)}"
    explain: SQL | Composed = SQL("EXPLAIN (FORMAT JSON) EXECUTE explained")
    if names:
        explain += SQL("(") + SQL(", ").join([Literal(parameters[name]) for name in names]) + SQL(")")
    connection.execute(prepare)
    try:
        # The sixth plan is the first that may be made without a look at the values.
        return [plan_of(connection.execute(explain)) for _ in range(6)][-1]
    finally:
        connection.execute("DEALLOCATE explained")


def plan_of(explain: psycopg.Cursor[Any]) -> Plan:
    """What an EXPLAIN answered."""
    found: Plan = explain.fetchall()[0][0][0]["Plan"]
    return found


def scans(plan: Plan) -> Iterator[Plan]:
    """Every part of a plan that reads a table or an index."""
    if plan["Node Type"].endswith("Scan"):
        yield plan
    for part in plan.get("Plans", ()):
        yield from scans(part)


def offences(plan: Plan, leading: Mapping[str, str]) -> list[str]:
    """What in a plan costs more the longer the history is.

    Args:
        plan: what EXPLAIN said, with or without having run the statement.
        leading: the first column of each index that grows with the history. Where that is not in the condition, every
            entry is compared; they are not counted as rows.
    """
    found = []
    for scan in scans(plan):
        table, index, condition = scan.get("Relation Name"), scan.get("Index Name"), scan.get("Index Cond")
        removed = scan.get("Rows Removed by Filter", 0) + scan.get("Rows Removed by Index Recheck", 0)
        read = (scan.get("Actual Rows", 0) + removed) * scan.get("Actual Loops", 0)
        if scan["Node Type"] == "Seq Scan" and table in {t.name for t in HISTORY}:
            found.append(f"reads all of {table}: {scan}")
        elif read > MANY:
            found.append(f"reads {read:,.0f} rows of {table} through {index}: {scan}")
        elif condition is not None and leading.get(str(index), "") not in condition:
            found.append(f"reads {index} from end to end: {scan}")
    return found


def starting(journal: Journal) -> None:
    """Runs start, twice, are taken back, and lose a message."""
    ref = a_run(journal, "charge", "ship", id="order-x")
    assert not journal.starts.start(a_workflow(new_ref(), id="order-x"), [])
    journal.starts.forget(ref)
    back = a_run(journal, a_step("charge", safety=Safety.IDEMPOTENT), "ship")
    journal.starts.forget(back)
    assert journal.reads.run(back) is None
    a_run(journal, a_step("charge", status=StepStatus.BEGUN, token=new_token()), a_step("ship", status=StepStatus.IN_DOUBT))
    ref = a_run(journal, "charge")
    late = a_step("late", ref=ref)
    for _ in range(2):
        assert journal.members.join(late, ["charge"]) is StepStatus.PLANNED
    journal.members.leave(ref, "late")
    beside = [a_step("legacy", ref=ref, kind=Kind.UNMARKED)]
    assert journal.members.join(late, ["charge", "legacy"], beside=beside) is StepStatus.PLANNED
    assert len(journal.reads.outline(ref)) == 3
    mail = a_step("mail", ref=ref, safety=Safety.IDEMPOTENT)
    for _ in range(2):
        assert journal.members.join(mail, ["charge"]) is StepStatus.PLANNED
        journal.members.leave(ref, "mail")
    ref = a_run(journal, a_step("charge", task_id="task-0"), "ship")
    assert journal.engine_ends.end(the(journal, ref, "charge"), "it was revoked")
    assert journal.engine_ends.ordered_again_at(ref) is None
    assert journal.runs.reopen(ref, ["charge"], who="me", why="it is to run", now=journal.time() + MINUTE)
    journal.engine_ends.send_again(ref, "task-0")
    branches = [a_step(name, after=[], pending=0, completes_run=True) for name in ("charge", "mail")]
    ref = a_run(journal, *branches, open_steps=2)
    assert journal.engine_ends.end(the(journal, ref, "charge"), "it was revoked"), "the other branch goes on"
    with pytest.raises(IllegalTransition):
        journal.db.transaction(lambda conn: journal.undo._move_run(conn, ref, WorkflowStatus.COMPENSATED, {}))
    ref = a_run(journal, a_step("charge", task_id="task-00"), "ship")
    assert journal.engine_ends.not_taken(ref, "task-00", "no worker knows it")
    journal.engine_ends.taken_up(the(journal, ref, "charge"))
    journal.engine_ends.begins_again(ref, "task-00")
    ref = a_run(journal, a_step("charge", task_id="task-1"), "ship")
    assert journal.enforced.since("a task that is new") <= journal.time()
    assert not journal.members.died_unbegun(a_step("charge", ref=new_ref()), "its horse died")
    assert journal.members.not_begun("task-1", "it was given up") == 1
    assert journal.members.not_begun("no such task", "it was given up") == 0
    assert journal.members.not_begun("task-1", "it was given up", ref=new_ref(), in_hand=True) == 0
    journal.members.stop_after(ref, "charge")
    journal.due.count_resend(ref, "charge", "its message was lost", lost="charge")
    journal.due.count_resends([(ref, "charge", "charge"), (ref, "ship", None)], "its message was lost")
    journal.due.check_again(ref, 1)
    assert ref in [run.ref for run, _ in journal.due.take_runs(2, 10)]
    journal.due.check_again(ref, journal.time() + MINUTE)


def running(journal: Journal) -> None:
    """Steps are claimed and end, claimed and unclaimed, alone and as the last, and answers are lost."""
    ref = a_run(journal, "charge", a_step("mail", safety=Safety.IDEMPOTENT), "ship", "unsure")
    token = new_token()
    assert journal.claims.get(ref, "charge") is not None
    assert journal.claims.begin(ref, "charge", token, "living-1", 30 * SECOND)
    assert journal.claims.begin(ref, "charge", token, "living-1", 30 * SECOND), "its answer was lost"
    assert not journal.claims.begin(ref, "ship", new_token(), "living-1", in_turn=True), "what it comes after is running"
    journal.claims.refer(ref, "charge", token, "ch_1")
    assert journal.db.transaction(lambda conn: journal.claims.is_claimed(conn, ref, "charge", token))
    assert journal.reads.of_task(ref, "no such task") is None
    assert journal.reads.identity(ref, "charge")[1:] == ("", 1, 0)
    assert journal.claims.heartbeat(ref, "charge", token, heartbeat=30 * SECOND, timeout=MINUTE, details='{"done": 1}')
    assert journal.ends.succeed(ref, "charge", token, ONE)
    assert journal.ends.succeed(ref, "charge", token, ONE), "its answer was lost"
    assert journal.ends.succeed_unclaimed(ref, "mail", new_token(), "living-1", ONE, completes_run=False)
    assert journal.ends.try_again(the(journal, ref, "ship"), claim(journal, ref, "ship", "living-1"), 0, TIMED_OUT, "timed out")
    assert journal.ends.succeed_unclaimed(ref, "ship", new_token(), "living-1", ONE, completes_run=True)
    token = claim(journal, ref, "unsure", "living-1")
    assert journal.ends.happened_without_value(the(journal, ref, "unsure"), token, "a lock cannot be recorded", "living-1")
    journal.ends.late_failure(the(journal, ref, "unsure"), token, "living-1", "it timed out")
    succeed_last = a_run(journal, "charge")
    assert journal.ends.succeed(
        succeed_last, "charge", claim(journal, succeed_last, "charge", "living-1"), ONE, completes_run=True
    )
    unmarked = a_run(journal, a_step("legacy", kind=Kind.UNMARKED))
    assert journal.members.record_unmarked(unmarked, "legacy", ONE, failed=None, who="me", why="I looked")


def in_its_own_transaction(journal: Journal) -> None:
    """Transactional steps: planned ones, one that refers to its effect, one of a function, a dispatch, a compensation."""
    ref = a_run(journal, "book", a_step("send", kind=Kind.DISPATCH), a_step("note", compensation="unnote"), "mail", open_steps=3)
    with journal.db.open_transaction() as conn:
        row = journal.claims.lock(conn, ref, "book", new_token(), "living-1")
        assert row is not None
        row.reference = "bk_1"
        journal.ends.succeed_locked(conn, row, ONE, completes_run=True)
    with journal.db.open_transaction() as conn:
        row = journal.claims.lock(conn, ref, "send", new_token(), "living-1")
        assert row is not None
        journal.ends.succeed_locked(conn, row, ONE, completes_run=False)
    succeed(journal, ref, "note")
    fail(journal, ref, "mail")
    with journal.db.open_transaction() as conn:
        row = journal.claims.lock(conn, ref, "undo:note", new_token(), "living-1")
        assert row is not None
        assert journal.ends.succeed_locked(conn, row, NOTHING, completes_run=False).decision is not None
    function = a_function(journal)
    with journal.db.open_transaction() as conn:
        assert journal.claims.lock_new(conn, a_call(function, "book#1"))


def running_a_function(journal: Journal) -> None:
    """A function calls, dispatches, waits, and is woken."""
    ref = a_function(journal)
    call = a_call(ref, "charge#1", worker="living-1")
    assert journal.claims.begin_new(call)
    assert journal.claims.begin_new(call), "its answer was lost"
    second = a_call(ref, "charge#2", 2, worker="living-1")
    assert journal.claims.begin_new(second)
    assert journal.ends.succeed(ref, "charge#2", second.token or "", ONE, member=False)
    assert journal.ends.happened_without_value(call, call.token, "a lock", "living-1")
    assert journal.claims.plan_new(a_dispatch(ref, "ship#1", 4))
    assert journal.runs.suspend(ref, waiting_for="step:ship#1", wake_at=None, unless_ended="ship#1", sent=["ship#1"])
    token = claim(journal, ref, "ship#1", "living-1")
    assert journal.ends.succeed_dispatched(ref, "ship#1", token, ONE).wakes
    assert journal.ends.succeed_dispatched(ref, "ship#1", token, ONE).wakes, "its answer was lost"
    journal.runs.woken(ref, "function")
    timer = a_step(
        "sleep#1", ref=ref, position=5, kind=Kind.SLEEP, status=StepStatus.WAITING, next_check_at=journal.time() + MINUTE
    )
    assert journal.runs.sleep(timer)
    assert not journal.runs.sleep(timer), "its answer was lost"
    journal.runs.woken(ref, "function")
    assert journal.doubts.hold_drift(the(journal, ref, "function"), "other arguments")
    assert journal.verdicts.release(the(journal, ref, "function"), who="me", why="the code is fixed")


def doubting(journal: Journal) -> None:
    """Steps are in doubt, held, taken over and decided, and come late."""
    ref = a_run(journal, "a", "b", "c", "d", "e")
    row = in_doubt(journal, ref, "a", "its worker died")
    assert journal.doubts.raise_doubt(row, row.token, "its worker died", cause=Cause.WORKER_DIED, over=True), (
        "its answer was lost"
    )
    assert journal.doubts.ask_later(row, journal.time())
    assert journal.doubts.take_over(row, "it is safe")
    assert journal.ends.late(ref, "a", row.token or "", ONE, "living-1") is not None
    assert journal.verdicts.happened(held(journal, ref, "b"), ONE, who="me", why="I looked").recorded
    assert journal.verdicts.did_not_happen(in_doubt(journal, ref, "c"), who="me", why="I looked").recorded
    fail(journal, ref, "d", Effect.UNKNOWN, fails_run=False)
    assert journal.doubts.doubt_failed(the(journal, ref, "d"), "its message came again")
    fail(journal, ref, "e", Effect.UNKNOWN, fails_run=False)
    assert journal.verdicts.acknowledge(ref, "e", who="me", why="written off")
    late = a_run(journal, "a")
    journal.ends.try_again(the(journal, late, "a"), claim(journal, late, "a"), 0, TIMED_OUT, "timed out")
    assert journal.doubts.doubt_waiting(the(journal, late, "a"), "its window has passed", cause=Cause.UNSAFE_TO_REPEAT)
    lost = a_run(journal, a_step("a", safety=Safety.TRANSACTIONAL))
    assert journal.ends.count_loss(the(journal, lost, "a"), "its connection was lost", "living-1") == 1
    assert journal.doubts.hold_unbegun(the(journal, lost, "a"), "its transaction was lost")
    assert journal.doubts.hold_unbegun(the(journal, lost, "a"), "its transaction was lost"), "its answer was lost"
    assert journal.doubts.raise_attention(ref, "e", Attention.CALLBACK, "it fails behind it")


def undoing(journal: Journal) -> None:
    """Runs fail and are undone; undos fail, are retried, and successes come late."""
    ref = a_run(journal, a_step("charge", compensation="refund"), a_step("pack", compensation="unpack"), "ship", "mail")
    succeed(journal, ref, "charge", "pack")
    token = claim(journal, ref, "ship")
    row = the(journal, ref, "ship")
    assert journal.ends.fail(row, token, DECLINED, DID_NOT, fails_run=True).decision is not None
    assert journal.ends.fail(row, token, DECLINED, DID_NOT, fails_run=True).recorded, "its answer was lost"
    token = claim(journal, ref, "undo:pack")
    assert journal.ends.succeed_undo(ref, "undo:pack", token, "pack", NOTHING).recorded
    assert journal.ends.succeed_undo(ref, "undo:pack", token, "pack", NOTHING).recorded, "its answer was lost"
    change(journal, ref, "pack", next_check_at=1)  # as an earlier release left it
    fail(journal, ref, "undo:charge")
    assert journal.undo.advance(ref) is None, "it is at its end"
    assert journal.runs.reopen(ref, ["undo:charge"], who="me", why="again", now=journal.time())
    assert journal.undo.reconsider(ref) is not None
    assert journal.undo.decision(ref).status is WorkflowStatus.ROLLING_BACK
    told = a_function(journal)
    assert journal.claims.begin_new(a_call(told, "charge#1", compensation="refund"))
    row = the(journal, told, "charge#1")
    assert journal.ends.fail(row, row.token, TIMED_OUT, Effect.UNKNOWN, fails_run=False).recorded
    assert journal.verdicts.happened(the(journal, told, "charge#1"), ONE, who="me", why="I looked").recorded
    assert journal.undo.begin(told, who="me", why="undo it") is not None
    assert journal.undo.begin(told, who="me", why="undo it") is not None, "its answer was lost"
    late = a_run(journal, a_step("charge", compensation="refund"), "ship")
    token = claim(journal, late, "charge")
    change(journal, late, "charge", status="cancelled")
    change(journal, late, status="cancelled")
    assert journal.ends.late(late, "charge", token, ONE, "living-1") is not None


def ordering(journal: Journal) -> None:
    """What people order: looks, retries, cancels, rollbacks, acknowledgements."""
    ref = a_run(journal, "charge", "ship")
    assert journal.due.check_now(ref, who="me", why="now")
    succeed(journal, ref, "charge")
    assert journal.runs.reopen(ref, [], who="me", why="go on", now=journal.time())
    assert journal.undo.begin(ref, who="me", why="undo it") is not None
    ref = a_run(journal, a_step("charge", completes_run=True))
    succeed(journal, ref, "charge")
    change(journal, ref, status="running", ended_at=None, open_steps=1)
    assert journal.runs.reopen(ref, [], who="me", why="it is complete", now=journal.time())
    ref = a_run(journal, "charge", "ship")
    fail(journal, ref, "charge")
    assert journal.runs.reopen(ref, ["charge"], who="me", why="again", now=journal.time())
    assert journal.runs.cancel(ref, who="me", why="enough") == []
    journal.runs.acknowledge(ref, who="me", why="seen")
    ref = a_run(journal, "charge", "ship")
    last = claim(journal, ref, "ship")
    fail(journal, ref, "charge")
    assert journal.ends.succeed(ref, "ship", last, ONE, completes_run=True)
    assert journal.runs.reopen(ref, ["charge"], who="me", why="again", now=journal.time())
    succeed(journal, ref, "charge")
    assert journal.runs.complete(ref)


def sweeping(journal: Journal) -> None:
    """What a sweeper asks at every turn, and what it takes; what has nothing due finds it out as cheaply."""
    now = journal.time()
    assert len(journal.workers.alive()) >= 30
    assert len(journal.due.of_dead_workers(200)) == 200
    assert len(journal.due.missing_from_heartbeats(200)) == 200
    for at in (0, now):
        for engines, namespace in ((None, None), (["celery"], "default"), (["rq"], "default"), (["celery"], "another")):
            journal.due.take_steps(at, 200, engines, namespace=namespace)
            journal.due.take_runs(at, 200, engines, namespace=namespace)
    assert set(journal.reads.queues_moved_to("default")) >= {("celery", "celery")}
    assert journal.workers.alive(namespace="default")
    journal.due.check_runs_at({new_ref(): now})
    journal.runs.mark_all([new_ref()], None)
    journal.due.count_send(a_step("charge", ref=new_ref(), status=StepStatus.WAITING))
    lost = [a_step("charge", ref=new_ref(), status=one) for one in (StepStatus.WAITING, StepStatus.IN_DOUBT)]
    journal.due.give_back(lost, now)
    journal.due.nothing_to_send(a_step("charge", ref=new_ref(), status=StepStatus.SUCCEEDED, next_check_at=now))
    journal.runs.mark(new_ref(), None)
    given_up = a_run(journal, a_step("charge", safety=Safety.IDEMPOTENT, options={"window": DAY}), "ship")
    journal.runs.mark(given_up, "unmarked")
    token = claim(journal, given_up, "charge")
    journal.ends.try_again(the(journal, given_up, "charge"), token, 0, TIMED_OUT, "timed out", effect=Effect.UNKNOWN)
    journal.runs.cancel(given_up, who="me", why="enough")
    journal.runs.acknowledge(given_up, who="me", why="looked at it")
    journal.verdicts.acknowledge(given_up, "charge", who="me", why="looked at it")
    journal.events.note(Event.SUPPRESSED, ref=new_ref())


def beating(journal: Journal) -> None:
    """Workers are born, beat, stop, die and are forgotten."""
    a_worker(journal, "w2")
    assert journal.workers.beat("w2", ["an attempt"])
    assert journal.workers.stood_still("w2", 1, "its beat stood still") == 1
    for again in range(2):
        a_worker(journal, f"w3.{again}", parent="p", pid=1)
    assert journal.workers.child_died("p", 1, "signal 9") == 1
    a_worker(journal, "w4")
    journal.workers.stop("w4")
    assert journal.workers.get("w4") is not None
    assert journal.workers.forget_ended(journal.time() + MINUTE)


def reconciling(journal: Journal) -> None:
    """What reconciliation, `doctor`, `list` and `explain` ask."""
    now, reads = journal.time(), journal.reads
    refs = sorted(reads.troubled_refs())
    assert len(refs) >= 5 * UNFINISHED
    for batch in (refs[:500], refs[:1]):
        reads.slim_runs(batch)
        reads.slim_steps(batch)
        reads.runs(batch)
        reads.steps_of(batch)
        reads.with_task(batch, "no such task")
        reads.refused(since=now - DAY)
        reads.refused(ref=batch[0])
    reads.workers(["living-1", "dead-1"])
    assert journal.around().living
    assert journal.surveys.named("default", "order-77777")[0]
    for asleep in (False, True):
        assert len(journal.surveys.of_interest("default", now, asleep=asleep, limit=10_000)) >= 9 * UNFINISHED
    journal.orders.carry_out(refs[0], lambda: None, lambda _: None)
    journal.orders.rehearse(refs[0], lambda: None)
    journal.enforced.since("a task that is new")
    reads.ever_listened("default")
    assert reads.unsettled()
    for asleep in (False, True):
        walked: list[tuple[int, str]] = []
        while page := reads.unfinished_refs("default", now, after=walked[-1] if walked else (0, ""), asleep=asleep):
            walked += page
        assert len(walked) >= 9 * UNFINISHED
    last = ""
    while some := reads.unfinished(after=last):
        last = some[-1].ref
    journal.events.since(Event.REFUSED, now - DAY)
    journal.events.since(Event.DRIFT, 0)
    journal.events.of(refs[0])
    assert reads.run(refs[0])
    assert reads.steps(refs[0])
    assert reads.latest("default", "order-77777")
    assert reads.newest_refs()
    assert reads.newest_refs("default", since=now - 3 * DAY)
    assert reads.newest_refs("default", before=now - 30 * DAY)
    assert reads.listed()
    assert reads.listed(namespace="default", since=now - 3 * DAY)
    assert reads.listed(namespace="default", name="order")
    assert reads.listed(namespace="default", unfinished=True)
    assert reads.listed(namespace="default", statuses=[WorkflowStatus.SUSPENDED])
    assert not reads.listed(namespace="default", statuses=[WorkflowStatus.FAILING])
    reads.server()
    journal.check()


def forgetting(journal: Journal) -> None:
    """What ended long ago is forgotten in batches; where nothing did, that is found out as cheaply."""
    now = journal.time()
    assert journal.retention.forget(now - 30 * DAY).total
    assert not journal.retention.forget(now - 100 * DAY).total


def restoring(journal: Journal) -> None:
    """After a restore everything that is unfinished is in doubt."""
    now = journal.time()
    assert journal.doubts.would_doubt("default", now - DAY).steps > 9 * UNFINISHED
    assert journal.doubts.doubt_unfinished("default", now - DAY, until=now, who="me", why="a restore").steps > 9 * UNFINISHED


#: Everything that is asked of the journal.
EVERYTHING: tuple[Callable[[Journal], None], ...] = (
    starting,
    running,
    in_its_own_transaction,
    running_a_function,
    doubting,
    undoing,
    ordering,
    sweeping,
    beating,
    reconciling,
    forgetting,
    restoring,
)


@pytest.fixture(scope="module")
def sent(journal: Journal) -> list[Sent]:
    """Every statement of the journal, with its plan."""
    a_worker(journal, "w1")
    with explained(journal) as found:
        for ask in EVERYTHING:
            ask(journal)
    return found


@pytest.fixture(scope="module")
def leading(journal: Journal) -> dict[str, str]:
    """The first column of every index that grows with the history."""
    with journal.db.engine.connect() as conn:
        found = driver(conn).execute(
            "SELECT c.relname, a.attname FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid"
            " JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0] WHERE c.reltuples > %s",
            [MANY],
        )
        return dict(found.fetchall())


def told(found: Mapping[str, list[str]]) -> str:
    """Offences by statement, to be read."""
    return "\n\n".join("\n  - ".join([statement, *wrong]) for statement, wrong in found.items())


def test_no_statement_reads_the_history(sent: list[Sent], leading: dict[str, str]) -> None:
    found = {str(one): wrong for one in sent if one.plan is not None and (wrong := offences(one.plan, leading))}
    assert not found, told(found)


def test_nor_does_any_that_the_driver_has_prepared(journal: Journal, sent: list[Sent], leading: dict[str, str]) -> None:
    found = {}
    with journal.db.engine.connect() as conn:
        for one in {one.statement: one for one in sent if one.plan is not None}.values():
            if wrong := offences(settled(driver(conn), one.statement, one.parameters), leading):
                found[str(one)] = wrong
    assert not found, told(found)


def test_every_public_method_was_asked(journal: Journal, sent: list[Sent]) -> None:
    rooms = [type(part) for part in (journal, *vars(journal).values()) if part is not journal.db]
    public = {
        f"{room.__name__}.{name}"
        for room in rooms
        if room.__module__.startswith(durable_adapter.journal.__name__)
        for name, _ in inspect.getmembers(room, inspect.isfunction)
        if not name.startswith("_")
    }
    asked = {method for one in sent for method in one.methods}
    assert public - asked == public & set(EXEMPT)


def test_every_place_that_sends_a_statement_was_seen_to_send_it(sent: list[Sent]) -> None:
    seen = {(one.file, one.line) for one in sent}
    unseen = {
        f"{function} ({file.name}:{call.lineno})"
        for file in ROOMS.glob("*.py")
        if file.name not in PASS_ON
        for function, call in calls(ast.parse(file.read_text()))
        if function not in EXEMPT and seen.isdisjoint((file.name, line) for line in lines(call))
    }
    assert not unseen, "\n".join(sorted(unseen))


def lines(node: ast.expr) -> range:
    """The lines on which an expression stands."""
    return range(node.lineno, (node.end_lineno or node.lineno) + 1)


def calls(tree: ast.AST, function: str = "") -> Iterator[tuple[str, ast.Call]]:
    """Every call that sends a statement, with the name of the function that it stands in."""
    for node in ast.iter_child_nodes(tree):
        inner = function
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)):
            inner = f"{function}.{node.name}".lstrip(".")
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            on, what = ast.unparse(node.func.value), node.func.attr
            if what in SENDERS and on != "sa":
                yield function, node
        yield from calls(node, inner)


@pytest.mark.parametrize("search", SEARCHES)
def test_only_what_people_look_for_without_an_index_reads_the_history(
    journal: Journal, leading: dict[str, str], search: str
) -> None:
    with explained(journal) as found:
        SEARCHES[search](journal)
    assert all(one.plan and offences(one.plan, leading) for one in found), "now that it does not, nothing has to be said of it"


@pytest.mark.parametrize("index", sorted({str(i.name) for t in HISTORY for i in t.indexes}))
def test_without_an_index_this_is_seen(journal: Journal, sent: list[Sent], leading: dict[str, str], index: str) -> None:
    users = {one.statement: one for one in sent if one.plan and any(s.get("Index Name") == index for s in scans(one.plan))}
    with journal.db.engine.connect() as conn:
        driver(conn).execute("BEGIN")
        driver(conn).execute(f"DROP INDEX {index}")
        try:
            plans = [analyzed(driver(conn), one.statement, one.parameters) for one in users.values()]
        finally:
            driver(conn).execute("ROLLBACK")
    assert any(offences(plan, leading) for plan in plans if plan)
