"""What a member of a canvas comes after, told from its rows: the journal knows the order, also when an engine has forgotten it.

Engines send what follows themselves. Those whose canvases grow job by job (RQ's `depends_on`) take what is gone from their
store for done; after a restore nobody knows how far a chain had come. So a step does not begin before what it comes after has
succeeded, whoever sends or delivers it; where it may come after a failure, before that has ended.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ..model import AFTER, ALSO_AFTER, CLAIMABLE, OPEN_STEPS, Kind, StepRow, StepStatus

if TYPE_CHECKING:
    from ..journal import Journal

#: It may begin although what it comes after failed: that only has to be over.
ALLOW_FAILURE = "allow_failure"
#: A row of a job that is no member of its run, and stands there because a member comes after it: nobody reports its end.
OUTSIDE = "outside"


def is_done(step: StepRow, before: StepRow) -> bool:
    """Whether *before* is what *step*, which comes after it, waits for."""
    if step.options.get(ALLOW_FAILURE):
        return before.status not in OPEN_STEPS
    return before.status is StepStatus.SUCCEEDED


def is_joined(steps: Sequence[StepRow]) -> bool:
    """Whether the members of a canvas name those that they come after; else they come one after the other."""
    return any(AFTER in s.options for s in steps)


def has_its_turn(step: StepRow, steps: Sequence[StepRow], done: Callable[[StepRow, StepRow], bool] = is_done) -> bool:
    """Whether everything before a member of a canvas is done, directly or by way of others.

    An unmarked member whose end was not recorded is, where one behind it was reached all the same: the engine sends
    nothing behind what has not succeeded.

    Args:
        step: the member.
        steps: all of its run.
        done: whether a step no longer waits for another; for those who know more than the rows.
    """
    members = [s for s in steps if s.kind is not Kind.COMPENSATION]
    by_key = {s.key: s for s in members}
    joined = is_joined(members)
    seen: set[str] = set()
    to_see = [step]
    while to_see:
        later = to_see.pop()
        before = [s for s in members if s.position < later.position]
        if joined:
            before = [by_key[key] for key in later.options.get(AFTER, ()) if key in by_key]
        if not all(done(later, s) or _was_passed(s, [*before, step]) for s in before):
            return False
        if joined and not later.options.get(ALLOW_FAILURE):
            to_see += [s for s in before if s.key not in seen]
            seen.update(s.key for s in before)
    return True


def _was_passed(member: StepRow, others: Sequence[StepRow]) -> bool:
    if member.kind is not Kind.UNMARKED or member.status is not StepStatus.PLANNED:
        return False
    return any(s.position > member.position and (s.begun_at is not None or s.status is StepStatus.SUCCEEDED) for s in others)


def elsewhere(journal: Journal, step: StepRow) -> list[StepRow]:
    """The members of other runs that a step comes after, or of its function; those that were pruned are done."""
    found = (journal.claims.look(ref, key) for ref, key in step.options.get(ALSO_AFTER, ()))
    return [row for row in found if row is not None]


def behind(step: StepRow, members: Sequence[StepRow]) -> list[StepRow]:
    """The members that come after a step of their run and have not begun."""
    return [s for s in members if step.key in s.options.get(AFTER, ()) and s.status in CLAIMABLE]


def concerns_nobody(step: StepRow, members: Sequence[StepRow]) -> bool:
    """Whether a row stands in a run for something that comes after it, and there is nothing that still does."""
    return bool(step.options.get(OUTSIDE)) and not behind(step, members)


def may_fail(behind: Sequence[StepRow]) -> bool:
    """Whether all that comes after a step begins also where that fails."""
    return bool(behind) and all(s.options.get(ALLOW_FAILURE) for s in behind)


def unmet(journal: Journal, ref: str, key: str) -> list[tuple[StepRow, StepRow]]:
    """A step that may begin, with each that it still waits for. One read, and one more for each member of another run."""
    steps = {s.key: s for s in journal.reads.outline(ref)}
    own = steps.get(key)
    if own is None or own.status not in CLAIMABLE:
        return []
    before = [steps[k] for k in own.options.get(AFTER, ()) if k in steps] + elsewhere(journal, own)
    return [(own, s) for s in before if not is_done(own, s)]
