"""`list`: workflows, newest first, and where each stands. Reads no values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from ...errors import UnreadableRow
from ...model import UNSETTLED_STEPS, StepStatus, WorkflowStatus
from ..exits import CLEAN
from ..options import When, moment
from ..session import Session, durable_command

if TYPE_CHECKING:
    from ...model import StepRow, WorkflowRow


def status(text: str) -> WorkflowStatus:
    """A status of workflows, with dashes or underscores.

    Raises:
        click.BadParameter: it is none; a step's status is told with what lists such steps.
    """
    word = text.replace("-", "_")
    try:
        return WorkflowStatus(word)
    except ValueError:
        there_are = f"{text!r} is no status of a workflow; there are: {', '.join(WorkflowStatus)}."
    if word not in set(StepStatus):
        raise click.BadParameter(there_are)
    held = "`durable-adapter reconcile` lists what is held or in doubt"
    listed = held if word in UNSETTLED_STEPS else "`list` shows where each stands"
    raise click.BadParameter(f"{there_are} A step can be {text}: {listed}")


EXAMPLES = (
    ("Celery: the journal that the app was installed with", "durable-adapter -A shop list --unfinished --since 2h"),
    (
        "RQ: the journal that install() was given in that module",
        "durable-adapter --import shop.jobs list --unfinished --since 2h",
    ),
    ("Either: the journal by its URL", "durable-adapter --journal postgresql+psycopg://shop@db/shop list --status failed"),
)


@durable_command("list", examples=EXAMPLES)
@click.option(
    "--status",
    "statuses",
    multiple=True,
    type=status,
    metavar="STATUS",
    help=f"Only with this status; may be given several times: {', '.join(WorkflowStatus)}.",
)
@click.option("--name", help="Only workflows of this name.")
@click.option("--since", type=moment, metavar="TIME", help="Only started since: 2h (ago), 2025-11-23, 2025-11-23T09:00.")
@click.option("--unfinished", is_flag=True, help="Only those that have not ended.")
@click.option(
    "--limit", metavar="N", type=click.IntRange(1, 100_000), default=50, show_default=True, help="How many at the most."
)
def command(
    session: Session, statuses: tuple[WorkflowStatus, ...], name: str | None, since: When | None, unfinished: bool, limit: int
) -> int:
    """List workflows, newest first."""
    from ...reconcile.blockers import Blockers, unswept_shown
    from ...reconcile.case import read_surroundings

    journal = session.journal
    around = journal.around()
    now = around.now
    unreadable: list[UnreadableRow] = []
    runs = journal.reads.listed(
        namespace=session.namespace,
        statuses=statuses,
        name=name,
        since=since.on(now) if since is not None else None,
        unfinished=unfinished,
        limit=limit + 1,
        unreadable=unreadable,
    )
    more = len(runs) > limit
    runs = runs[:limit]
    looked_into = [run.ref for run in runs if run.next_check_at is not None or run.attention is not None]
    steps = journal.reads.slim_steps(looked_into, unreadable=unreadable)
    shown = [_shown(run, steps.get(run.ref, [])) for run in runs]
    look = read_surroundings(journal, around, caller=session.caller, stale=session.stale)
    blockers = Blockers()
    for run in runs:
        blockers.add(run, steps.get(run.ref, []))
    idle = blockers.unswept(look, [])
    findings = blockers.findings(look, idle)
    session.warn_of(findings)
    for error in unreadable:
        session.out.warn(str(error))
    if session.out.as_json:
        left = [{"id": e.id, "ref": e.ref, "key": e.key, "why": e.why} for e in unreadable]
        found = [finding.shown() for finding in findings]
        session.out.json(
            {"workflows": shown, "more": more, "unreadable": left, "unswept": unswept_shown(idle), "findings": found}
        )
        return CLEAN
    _print(session, runs, shown, now, more=more)
    return CLEAN


def _shown(run: WorkflowRow, steps: list[StepRow]) -> dict[str, Any]:
    from ...reconcile.words import iso

    return {
        "id": run.id,
        "ref": run.ref,
        "run": run.run,
        "declared": run.declared,
        "name": run.name,
        "shape": run.shape.value,
        "engine": run.engine,
        "status": run.status.value,
        "stands_at": _stands_at(run, steps),
        "attention": run.attention or next((mark for s in steps for mark in s.marks), None),
        "created_at": iso(run.created_at),
        "ended_at": iso(run.ended_at),
    }


def _stands_at(run: WorkflowRow, steps: list[StepRow]) -> dict[str, str] | None:
    """The step that matters now: what is held or in doubt before what runs, and that before what is still to come."""
    from ...model import StepStatus

    order = (StepStatus.HELD, StepStatus.IN_DOUBT, StepStatus.BEGUN, StepStatus.WAITING, StepStatus.PLANNED)
    for status in order:
        found = next((s for s in steps if s.status is status), None)
        if found is not None:
            return {"step": found.name, "key": found.key, "status": found.status.value}
    marked = next((s for s in steps if s.marks), None)
    return {"step": marked.name, "key": marked.key, "status": marked.status.value} if marked is not None else None


def _print(session: Session, runs: list[WorkflowRow], shown: list[dict[str, Any]], now: int, *, more: bool) -> None:
    from ...reconcile import words
    from ...reconcile.commands import workflow_word

    if not runs:
        session.out.say("No workflows." if session.namespace == "default" else f"No workflows in {session.namespace!r}.")
        return
    rows, styles = [], []
    for run, row in zip(runs, shown, strict=True):
        at = row["stands_at"]
        where = f"{at['step']} ({at['status'].replace('_', ' ')})" if at else ""
        ended = run.ended_at if run.ended_at is not None else now
        status, took = words.status_words(run.status), words.span(ended - run.created_at)
        rows.append((workflow_word(run), run.name, status, where, words.moment(run.created_at), took))
        held = at is not None and at["status"] in ("held", "in_doubt")
        styles.append("red" if held or row["attention"] else None)
    session.out.table(("workflow", "name", "status", "stands at", "started", "took"), rows, styles=styles)
    if more:
        session.out.say(f"There are more than {len(runs)}: narrow it down, or raise --limit.")
