"""The order of a canvas, derived from its rows: which members must be done before another may begin.

Engines send what follows by themselves, but RQ's `depends_on` takes a job that is gone from its store for done, and after a
restore no engine knows how far a chain had come. So whoever sends or delivers it, a step does not begin before the steps that
it comes after have succeeded; with `allow_failure`, before they have ended.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ..errors import Deferred
from ..model import ALLOW_FAILURE, ALSO_AFTER, CLAIMABLE, OPEN_STEPS, Shape, StepRow, StepStatus, WorkflowRow, forward

if TYPE_CHECKING:
    from ..journal import Journal

#: The option of a row whose job is not a member of its run: it is there because a member comes after it. Nobody reports its end.
OUTSIDE = "outside"


def is_done(step: StepRow, before: StepRow) -> bool:
    """Whether *step*, which comes after *before*, no longer waits for it."""
    if step.options.get(ALLOW_FAILURE):
        return before.status not in OPEN_STEPS
    return before.status is StepStatus.SUCCEEDED


def members_of(steps: Sequence[StepRow]) -> list[StepRow]:
    """The members of a canvas, each of which names those that it comes after. A function's run has the function alone.

    Those of revision 0001 may name none: then each comes after the one before it.
    """
    functions = [s for s in steps if s.kind.makes_calls]
    if functions:
        return functions
    members = forward(steps)
    if all(s.after is None for s in members):
        for before, member in itertools.pairwise(members):
            member.after = [before.key]
    return members


def before(step: StepRow, steps: Sequence[StepRow]) -> list[StepRow]:
    """The members of its own run that a member comes after."""
    by_key = {s.key: s for s in members_of(steps)}
    return [by_key[key] for key in by_key[step.key].after or () if key in by_key] if step.key in by_key else []


def may_begin(step: StepRow, steps: Sequence[StepRow], done: Callable[[StepRow, StepRow], bool] = is_done) -> bool:
    """Whether every member that comes before a member of a canvas is done, directly or indirectly.

    An unmarked member whose end was not recorded counts as done where a later member has begun: the engine sends nothing after a
    member that has not succeeded.

    Args:
        step: the member.
        steps: all of its run.
        done: whether a step no longer waits for another, for callers that know more than the rows.
    """
    by_key = {s.key: s for s in members_of(steps)}
    seen: set[str] = set()
    to_see = [step.key]
    while to_see:
        later = by_key.get(to_see.pop(), step)
        earlier = [by_key[key] for key in later.after or () if key in by_key]
        if not all(done(later, s) or _was_passed(s, [*earlier, step]) for s in earlier):
            return False
        if not later.options.get(ALLOW_FAILURE):
            to_see += [s.key for s in earlier if s.key not in seen]
            seen.update(s.key for s in earlier)
    return True


def _was_passed(member: StepRow, others: Sequence[StepRow]) -> bool:
    if member.kind.marked or member.status is not StepStatus.PLANNED:
        return False
    return any(s.position > member.position and (s.begun_at is not None or s.status is StepStatus.SUCCEEDED) for s in others)


def ready(
    run: WorkflowRow, steps: Sequence[StepRow], done: Callable[[StepRow, StepRow], bool] = is_done
) -> list[tuple[StepRow, int]]:
    """The planned members of a canvas that may begin, each with the time since when, in microseconds.

    A member is left out where one that comes after it has begun: only its own end was not recorded.

    Args:
        run: the run.
        steps: all of its steps.
        done: as `may_begin` has it.
    """
    if run.shape is not Shape.CANVAS:
        return []
    members = members_of(steps)
    passed = {key for s in members if s.begun_at is not None or s.status is StepStatus.SUCCEEDED for key in s.after or ()}
    found = []
    for step in members:
        if step.status is not StepStatus.PLANNED or step.key in passed or concerns_nobody(step, members):
            continue
        if may_begin(step, steps, done):
            ends = [s.ended_at or 0 for s in before(step, members)]
            found.append((step, max([run.created_at, step.created_at, *ends])))
    return found


def elsewhere(journal: Journal, step: StepRow) -> list[StepRow]:
    """Returns the steps of other runs, or of its function, that a step comes after. Those that were pruned count as done."""
    found = (journal.claims.get(ref, key) for ref, key in step.options.get(ALSO_AFTER, ()))
    return [row for row in found if row is not None]


def behind(step: StepRow, members: Sequence[StepRow]) -> list[StepRow]:
    """The members that come after a step of their run and have not begun."""
    return [s for s in members if step.key in (s.after or ()) and s.status in CLAIMABLE]


def concerns_nobody(step: StepRow, members: Sequence[StepRow]) -> bool:
    """Whether a row is only there because a member comes after it, and no such member is left."""
    return bool(step.options.get(OUTSIDE)) and not behind(step, members)


def may_fail(behind: Sequence[StepRow]) -> bool:
    """Whether every member that comes after a step may begin even if the step fails."""
    return bool(behind) and all(s.options.get(ALLOW_FAILURE) for s in behind)


def take_turn(journal: Journal, ref: str, key: str) -> None:
    """Makes sure that a member may begin although its counter of open predecessors is not 0.

    Raises:
        Deferred: it may not. Its message is sent when they are done.
    """
    steps = journal.reads.outline(ref)
    own = next((s for s in steps if s.key == key), None)
    if own is None or may_begin(own, steps):
        return
    waits = ", ".join(f"{s.name} ({s.status})" for s in before(own, steps) if not is_done(own, s)) or "what it comes after"
    raise Deferred(f"step {own.name} came before its turn: it comes after {waits}")


def unmet(journal: Journal, ref: str, key: str) -> list[tuple[StepRow, StepRow]]:
    """Returns a claimable step paired with each step that it still waits for. One read, and one more per step of another run."""
    steps = {s.key: s for s in journal.reads.outline(ref)}
    own = steps.get(key)
    if own is None or own.status not in CLAIMABLE:
        return []
    earlier = before(own, list(steps.values())) + elsewhere(journal, own)
    return [(own, s) for s in earlier if not is_done(own, s)]
