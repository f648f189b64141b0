"""`resolve`: a person's verdict on a step in doubt, held, or failed with its effect unknown."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import click

from ..changes import Given, carry_out, changing_command, give, troubled
from ..session import Session

if TYPE_CHECKING:
    from ...codec import Stored
    from ...model import StepRow, WorkflowRow
    from ...reconcile.changes import Change, Operator
    from ..search import Searched


EXAMPLES = (
    (
        "Celery: it happened, and returned this",
        'durable-adapter -A shop resolve order-42 charge --happened \'"ch_42"\' --by ann --why "asked the bank" --apply',
    ),
    (
        "RQ: it did not happen, try again",
        'durable-adapter -u redis://localhost:6379 resolve order-42 charge --did-not-happen --by ann --why "asked them" --apply',
    ),
    ("Many at once: what would be done", "durable-adapter -A shop resolve --task shop.charge --since 2h --did-not-happen"),
)


@changing_command(
    "resolve",
    examples=EXAMPLES,
    step=True,
    task="every open step of this name",
    since="what came into doubt, or failed,",
)
@click.option("--happened", metavar="VALUE", help="It happened; VALUE is what the step returned, as JSON.")
@click.option("--did-not-happen", is_flag=True, help="It did not happen; it is tried again.")
@click.option("--failed", is_flag=True, help="It did not happen, and is not tried again: the step fails for good.")
@click.option("--acknowledge", is_flag=True, help="Take a finding that needs nothing more off the list; no outcome changes.")
def command(session: Session, given: Given, happened: str | None, did_not_happen: bool, failed: bool, acknowledge: bool) -> int:
    """Decide what happened to a step in doubt.

    ID is a workflow's id, a run's reference, or a task's id. STEP is a step's name or key; it may be left out where only one
    step waits for a verdict. Say exactly one of --happened VALUE, --did-not-happen, --failed and --acknowledge.

    The verdict is recorded only if nothing was decided meanwhile: if the step's own attempt, a probe or another person was
    first, that stands, and it is told.
    """
    said = [happened is not None, did_not_happen, failed, acknowledge]
    if sum(said) != 1:
        raise click.UsageError(
            "say what happened, with exactly one of --happened VALUE, --did-not-happen, --failed and --acknowledge"
        )
    value = None if happened is None else read_value(happened)
    if acknowledge:
        return _acknowledge(session, given)
    from ...model import StepStatus
    from ...reconcile.verdicts import Verdict, decidable, decide

    verdict = Verdict.HAPPENED if happened is not None else Verdict.FAILED if failed else Verdict.DID_NOT_HAPPEN
    since = given.since.on(session.checked().time()) if given.since is not None else 0

    def make(operator: Operator, run: WorkflowRow, steps: Sequence[StepRow], row: StepRow | None) -> Change:
        assert row is not None
        return decide(operator, run, steps, row, verdict, value)

    def fits(run: WorkflowRow, steps: list[StepRow]) -> Iterator[StepRow]:
        """Every step of the name that waits for a verdict and came to that since the time."""
        for row in decidable(run, steps):
            # Of a failed step, as its finding has it: the doubt that came before its end is no longer what is open.
            at = row.ended_at if row.status is StepStatus.FAILED else row.doubt_at or row.ended_at
            if row.name == given.task and (at or 0) >= since:
                yield row

    def pick(found: Searched, steps: list[StepRow]) -> StepRow:
        return _the_step(session, given, found, steps)

    return give(session, given, make, fits, pick=pick, among=lambda session, _since: troubled(session))


def read_value(text: str) -> Stored:
    """The value that a person gives, as the journal keeps it.

    Raises:
        click.BadParameter: it is no JSON; a bare word is told how to be quoted.
    """
    from ...codec import JSON
    from ...errors import DurableError
    from ...runtime.values import encode

    try:
        json.loads(text)
    except ValueError as error:
        quoted = json.dumps(text)
        hint = f" A text is given in quotes: --happened '{quoted}'" if len(text) < 200 else ""
        raise click.BadParameter(f"{text[:100]!r} is not JSON: {error}.{hint}", param_hint="--happened") from error
    try:
        return encode(JSON.decode(text.encode()))
    except DurableError as error:
        raise click.BadParameter(str(error), param_hint="--happened") from error


def _the_step(session: Session, given: Given, found: Searched, steps: list[StepRow]) -> StepRow:
    """The step that was named, or the only one that waits for a verdict.

    Raises:
        NotResolvable: none waits, or several do; says which.
    """
    from ...errors import NotResolvable
    from ...reconcile.commands import workflow_word
    from ...reconcile.verdicts import decidable
    from ..search import find_step

    run = found.run
    if given.step is not None:
        return find_step(run, steps, given.step)
    open_ones = decidable(run, steps)
    if len(open_ones) > 1 and found.task_id is not None:
        open_ones = [s for s in open_ones if s.task_id == found.task_id] or open_ones
    if len(open_ones) == 1:
        return open_ones[0]
    explain = session.caller.command("explain", ids=[workflow_word(run)])
    if open_ones:
        names = ", ".join(f"{s.name} ({s.key})" for s in open_ones)
        raise NotResolvable(f"{len(open_ones)} steps of {workflow_word(run)} wait for a verdict; name one: {names}")
    if len(steps) == 1:
        return steps[0]
    raise NotResolvable(
        f"no step of {workflow_word(run)} is in doubt, held, or failed with its effect unknown; it is "
        f"{run.status.value.replace('_', ' ')}. See `{explain}`."
    )


def _acknowledge(session: Session, given: Given) -> int:
    from ...errors import UnknownWorkflow
    from ...reconcile.orders import acknowledge, acknowledge_refused

    if given.id is None:
        raise click.UsageError("--acknowledge is for one workflow at a time: give its ID")
    try:
        return give(session, given, acknowledge, lambda _run, _steps: ())
    except UnknownWorkflow as error:
        # A reference has 32 characters; whatever is longer names no run of which a message could have been refused.
        change = acknowledge_refused(given.operator(session), given.id) if len(given.id) <= 32 else None
        if change is None:
            raise UnknownWorkflow(
                f"the journal {session.journal.db.safe_url} has no workflow {given.id!r}, and in namespace "
                f"{session.namespace!r} no message of it was refused that nobody has acknowledged"
            ) from error
        return carry_out(session, [change], given.signed)
