"""The one shell of the commands that change runs: choose them, show what would be done, do it with --apply, say what became.

`changing_command` gives such a command its arguments and options, `give` does the rest. The commands themselves say which
runs fit and what change each gets.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial, update_wrapper
from itertools import islice
from typing import TYPE_CHECKING, Any

import click

from ..errors import NotResolvable
from .options import Signed, When, bulk, changing
from .session import CLEAN, FINDINGS, Session, durable_command

if TYPE_CHECKING:
    from ..model import StepRow, WorkflowRow
    from ..reconcile.changes import Change, Operator, Outcome
    from .search import Searched

    #: Makes the change of one run, or of one step of it.
    Make = Callable[[Operator, WorkflowRow, Sequence[StepRow], StepRow | None], Change]

#: Runs that are read at a time.
BATCH = 500


@dataclass(frozen=True)
class Given:
    """What a command that changes runs was given.

    Attributes:
        id: which run: a workflow's id, a run's reference, or a task's id; None for many.
        step: which step of it, where that was named.
        task: in bulk: the name that chooses.
        since: in bulk: since when.
        limit: in bulk: how many at the most.
        signed: whether it is done, by whom and why.
    """

    id: str | None
    step: str | None
    task: str | None
    since: When | None
    limit: int
    signed: Signed

    def operator(self, session: Session) -> Operator:
        """The person who gives the order, on a journal that was checked."""
        from ..reconcile.changes import Operator

        return Operator(
            session.checked(),
            who=self.signed.who,
            why=self.signed.why,
            engines=session.engines,
            caller=session.caller,
            stale=session.settings.stale,
            in_bulk=self.id is None,
        )


def changing_command(
    name: str, *, task: str, since: str, step: bool = False, **settings: Any
) -> Callable[[Callable[..., int]], click.Command]:
    """Makes a command of a function of a session, a `Given` and its own options; it returns the exit code.

    Args:
        name: the command's name.
        task: what --task chooses, for its help.
        since: what --since leaves out, for its help.
        step: one step of a run may be named.
        **settings: see `durable_command`.
    """

    def decorate(function: Callable[..., int]) -> click.Command:
        def run(
            session: Session,
            id: str | None,
            task: str | None,
            since: When | None,
            limit: int,
            signed: Signed,
            step: str | None = None,
            **own: Any,
        ) -> int:
            check_bulk(id, task, since)
            if step == "--apply":
                raise click.UsageError("--apply stands behind --, where nothing is an option: put it before the --")
            return function(session, Given(id, step, task, since, limit, signed), **own)

        own: list[click.Parameter] = getattr(function, "__click_params__", [])
        wrapped: Callable[..., int] = update_wrapper(run, function)
        wrapped.__dict__["__click_params__"] = []
        made = bulk(task=task, since=since)(changing(wrapped))
        # click lists them in reverse: the command's own options come first in its help.
        made.__dict__["__click_params__"] += own
        if step:
            made = click.argument("step", required=False)(made)
        return durable_command(name, **settings)(click.argument("id", required=False)(made))

    return decorate


def give(
    session: Session,
    given: Given,
    make: Make,
    choose: Callable[[WorkflowRow, list[StepRow]], Iterable[StepRow | None]],
    *,
    pick: Callable[[Searched, list[StepRow]], StepRow | None] | None = None,
    among: Callable[[Session, int], Iterable[tuple[WorkflowRow, list[StepRow]]]] | None = None,
) -> int:
    """Gives one order for the run that was named, or for every run that fits.

    Args:
        session: the session.
        given: what was given.
        make: makes the change of one run, or of one step of it.
        choose: in bulk: the steps of a run that are chosen; None in place of a step chooses the run as a whole.
        pick: which step of the one run that was named; by default the one that the user named, if any.
        among: in bulk: the runs that are looked through; by default those that were started since the given time.

    Returns:
        The exit code.
    """
    from .search import find_run

    operator = given.operator(session)
    if given.id is not None:
        found = find_run(session.journal, session.namespace, given.id, single=True)
        steps = session.journal.reads.steps(found.run.ref)
        step = (pick or partial(_named, given))(found, steps)
        return carry_out(session, [make(operator, found.run, steps, step)], given.signed)
    assert given.since is not None
    runs = (among or started_since)(session, given.since.on(session.journal.time()))
    fitting = ((run, steps, step) for run, steps in runs for step in choose(run, steps))
    chosen = list(islice(fitting, given.limit))
    refused: list[str] = []
    changes = _in_turn(operator, make, chosen, refused)
    more = len(chosen) >= given.limit
    return carry_out(session, changes, given.signed, refused=refused, more=more, at_the_end=operator.sending.at_the_end)


def whole(fits: Callable[[WorkflowRow, list[StepRow]], bool]) -> Callable[[WorkflowRow, list[StepRow]], Iterable[None]]:
    """Chooses, in bulk, each run that fits as a whole."""
    return lambda run, steps: [None] if fits(run, steps) else []


def _in_turn(
    operator: Operator,
    make: Make,
    chosen: Iterable[tuple[WorkflowRow, list[StepRow], StepRow | None]],
    refused: list[str],
) -> Iterator[Change]:
    """Makes each change when its turn comes; adds to *refused* why others cannot be made.

    A run that an earlier change of this order concerned is read again: that change is no other person's. The step stays as it
    was chosen, so that nothing is decided about an attempt that nobody has seen.
    """
    seen: set[str] = set()
    reads = operator.journal.reads
    for run, steps, step in chosen:
        again = reads.run(run.ref) if run.ref in seen else None
        seen.add(run.ref)
        try:
            yield make(operator, run, steps, step) if again is None else make(operator, again, reads.steps(run.ref), step)
        except NotResolvable as error:
            refused.append(str(error))


def _named(given: Given, found: Searched, steps: list[StepRow]) -> StepRow | None:
    """The step that the user named, if any."""
    from .search import find_step

    return find_step(found.run, steps, given.step) if given.step is not None else None


def carry_out(
    session: Session,
    changes: Iterable[Change],
    signed: Signed,
    *,
    refused: list[str] | None = None,
    more: bool = False,
    at_the_end: Callable[[], str] = str,
) -> int:
    """Says what would be done; does it where it was ordered with --apply; and says what became of each.

    Args:
        session: the session.
        changes: what is to be done; each is taken when the one before it is done.
        signed: whether it is, by whom and why.
        refused: why other things that were named are not to be done; complete once all changes are taken.
        more: there may be more of what was named than one order may concern.
        at_the_end: has what all of them made due sent, and says by whom.

    Returns:
        The exit code: 1 where something was refused, or had been decided otherwise meanwhile.
    """
    refused = refused if refused is not None else []
    apply = signed.apply
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
    if len(done) + len(refused) > 1:
        _sum_up(session, len(done), lost, len(refused), apply=apply)
    if then:
        session.out.say(then)
    if more:
        session.out.warn("There may be more: the limit was reached. Order it again for the rest, or raise --limit.")
    if not apply and done:
        session.out.say(signed.UNCHANGED)
    if not done and not refused:
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
    session.out.say(f"{change.workflow}: {change.would}." if apply else f"{change.workflow}: would {change.would}.")
    for consequence in change.consequences:
        session.out.say(f"  - {consequence}")
    for warning in change.warnings:
        session.out.warn(f"  Note: {warning}.")


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
