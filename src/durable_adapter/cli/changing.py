"""Showing changes, and carrying them out when asked: the same for one and for many."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, TypeVar

import click

from ..errors import NotResolvable
from .options import When
from .session import CLEAN, FINDINGS, Session

if TYPE_CHECKING:
    from ..model import StepRow, WorkflowRow
    from ..reconcile.changes import Change, Outcome

T = TypeVar("T")

#: Runs that are read at a time.
BATCH = 500


def carry_out(
    session: Session,
    changes: Iterable[Change],
    *,
    apply: bool,
    refused: list[str] | None = None,
    more: bool = False,
    at_the_end: Callable[[], str] = str,
) -> int:
    """Says what would be done; does it where *apply* is set; and says what became of each.

    Args:
        session: the session.
        changes: what is to be done.
        apply: whether it is.
        refused: why other things that were named are not to be done.
        more: there may be more of what was named than one order may concern.
        at_the_end: lets be sent what all of them made due, and says by whom.

    Returns:
        The exit code: 1 where something was refused, or had been decided otherwise meanwhile.
    """
    changes, refused = list(changes), refused or []
    done: list[tuple[Change, Outcome | None]] = []
    for change in changes:
        _announce(session, change, apply=apply)
        outcome = change.carry_out() if apply else None
        if outcome is not None:
            session.out.say(f"  {outcome.says} {outcome.next}".rstrip(), fg="green" if outcome.done else "red")
        done.append((change, outcome))
    then = at_the_end() if apply else ""
    lost = sum(outcome is not None and not outcome.done for _, outcome in done)
    if session.out.as_json:
        shown = [change.shown(outcome) for change, outcome in done]
        session.out.json({"applied": apply, "changes": shown, "refused": refused, "more": more, "next": then or None})
        return FINDINGS if lost or refused else CLEAN
    for reason in refused:
        session.out.warn(f"Left alone: {reason}")
    if len(changes) + len(refused) > 1:
        _sum_up(session, len(changes), lost, len(refused), apply=apply)
    if then:
        session.out.say(then)
    if more:
        session.out.warn("There may be more: the limit was reached. Order it again for the rest, or raise --limit.")
    if not apply and changes:
        session.out.say("Nothing was changed. Add --apply, --by WHO and --why TEXT to do it.")
    if not changes and not refused:
        session.out.say("Nothing fits: there is nothing to do.")
    return FINDINGS if lost or refused else CLEAN


def _sum_up(session: Session, chosen: int, lost: int, refused: int, *, apply: bool) -> None:
    """How many, where they are too many to count on the screen."""
    parts = [f"{chosen - lost} done" if apply else f"{chosen} to be done"]
    if lost:
        parts.append(f"{lost} decided otherwise meanwhile")
    if refused:
        parts.append(f"{refused} left alone")
    session.out.say(f"{', '.join(parts)}.", bold=True)


def _announce(session: Session, change: Change, *, apply: bool) -> None:
    from ..reconcile.commands import workflow_word

    word = workflow_word(change.run)
    session.out.say(f"{word}: {change.would}." if apply else f"{word}: would {change.would}.")
    for warning in change.warnings:
        session.out.warn(f"  Note: {warning}.")


def gather(makers: Iterable[Callable[[], T]]) -> tuple[list[T], list[str]]:
    """What can be made, and why the rest cannot."""
    made, refused = [], []
    for make in makers:
        try:
            made.append(make())
        except NotResolvable as error:
            refused.append(str(error))
    return made, refused


def check_bulk(id: str | None, task: str | None, since: When | None) -> None:
    """One workflow, or many: not both, and never everything.

    Raises:
        click.UsageError: says what is missing.
    """
    if id is not None and (task is not None or since is not None):
        raise click.UsageError("give either an ID, or --task NAME and --since TIME for many workflows; not both")
    if id is None and (task is None or since is None):
        raise click.UsageError("name a workflow by its ID; or many of them by --task NAME together with --since TIME")


def troubled(session: Session) -> Iterator[tuple[WorkflowRow, list[StepRow]]]:
    """Every run with a step that is begun, in doubt or held, or marked for people, oldest first."""
    yield from _whole(session, sorted(session.journal.reads.troubled_refs()))


def started_since(session: Session, since: int) -> Iterator[tuple[WorkflowRow, list[StepRow]]]:
    """Every run that was started since a time, newest first."""
    before: int | None = None
    reads = session.journal.reads
    while page := reads.newest_refs(session.namespace, since=since, before=before, limit=BATCH):
        yield from _whole(session, [ref for _, ref in page])
        before = page[-1][0]


def _whole(session: Session, refs: list[str]) -> Iterator[tuple[WorkflowRow, list[StepRow]]]:
    reads = session.journal.reads
    for start in range(0, len(refs), BATCH):
        batch = refs[start : start + BATCH]
        session.looked_at += len(batch)
        session.out.progress(f"{session.looked_at:,} workflows looked at")
        runs, steps = reads.slim_runs(batch), reads.slim_steps(batch)
        session.out.progress()
        yield from ((runs[ref], steps[ref]) for ref in batch if ref in runs and runs[ref].namespace == session.namespace)
