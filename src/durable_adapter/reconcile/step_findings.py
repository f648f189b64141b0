"""Findings about single steps: one function a kind. Each looks at one run and says what it finds, and changes nothing.

A finding reports what the journal knows. What may be done about it is decided elsewhere: by the sweeper's own rules, or
by a person's verdict.
"""

from __future__ import annotations

from collections.abc import Iterator

from ..model import SECOND, Attention, Effect, StepRow, StepStatus
from .case import Case, may_lack_calls
from .commands import VALUE
from .finding import Finding, Remedy, Trouble
from .words import attempts, error_line, error_of, sentence, since, span, status_words

#: How long a step may be due, or a doubt may be looked at, before it is worth a report.
OVERDUE = 60 * SECOND
#: How long a doubt may take to settle by itself, on top of what the step's own `settle` asks for.
PATIENCE = 900 * SECOND


def held(case: Case) -> Iterator[Finding]:
    """Held steps: what may have happened, and only a person can say."""
    for step in case.steps:
        if step.status is not StepStatus.HELD or step.attention in (Attention.DRIFT, Attention.VALUE_MISSING):
            continue
        certain = f"{_begun(case, step)} It is held: {case.told(step.evidence or step.doubt)}."
        uncertain = f"whether its effect happened: ask whatever it calls{_reference(step)}"
        yield case.find(Trouble.HELD, step, step.doubt_at, certain, uncertain, *verdicts(case, step))


def value_missing(case: Case) -> Iterator[Finding]:
    """Steps that certainly happened and whose value is not recorded."""
    for step in case.steps:
        if step.status is not StepStatus.HELD or step.attention != Attention.VALUE_MISSING:
            continue
        certain = f"{_begun(case, step)} {sentence(case.told(step.doubt) or 'it happened, but its value cannot be recorded')}"
        remedy = Remedy("once you know what it returned", case.resolve(step, "--happened", VALUE))
        uncertain = "what it returned, as the steps after it need it"
        yield case.find(Trouble.VALUE_MISSING, step, step.doubt_at, certain, uncertain, remedy)


def drift(case: Case) -> Iterator[Finding]:
    """Functions that were held because their code no longer fits what is recorded, or because some of that may be lost."""
    for step in case.steps:
        if step.status is not StepStatus.HELD or step.attention != Attention.DRIFT:
            continue
        certain = f"The workflow was stopped before it did anything else: {case.told(step.evidence or step.doubt)}."
        give_up = Remedy("to fail the workflow, and undo what can be undone", case.resolve(step, "--failed"))
        if may_lack_calls(step):
            again = case.order("retry")
            go_on = Remedy("once you know that nothing is missing: a call without a record runs again", again)
            uncertain = "whether it called anything that is not recorded: look at what it calls"
        else:
            again = case.order("retry")
            go_on, uncertain = Remedy("once code is deployed that fits what is recorded", again), "which code is right"
        yield case.find(Trouble.DRIFT, step, step.doubt_at, certain, uncertain, go_on, give_up)


def effect_unknown(case: Case) -> Iterator[Finding]:
    """Steps that failed for good while their effect may have happened. Failed compensations are told of with their target."""
    for step in case.steps:
        if step.status is not StepStatus.FAILED or step.attention != Attention.EFFECT_UNKNOWN or step.kind.undoes:
            continue
        certain = f"{_begun(case, step)} It failed for good{_raised(step)}."
        behind = [s.name for s in case.members if s.status is StepStatus.CANCELLED]
        if behind:
            certain += f" What follows it was cancelled: {', '.join(behind)}."
        yield case.find(
            Trouble.EFFECT_UNKNOWN,
            step,
            step.ended_at,
            certain,
            f"whether its effect happened before it failed: ask whatever it calls{_reference(step)}",
            Remedy("if it happened", case.resolve(step, "--happened", VALUE)),
            Remedy("if it did not happen (then `retry` may run it again)", case.resolve(step, "--did-not-happen")),
        )


def twice(case: Case) -> Iterator[Finding]:
    """Steps whose attempt succeeded after its outcome had been decided otherwise."""
    for step in case.steps:
        if step.twice_at is None:
            continue
        certain = (
            f"An attempt of it reported success after its outcome had been decided otherwise"
            f"{f' ({step.verdict})' if step.verdict else ''}. The step is {status_words(step.status)} now, {attempts(step)}."
        )
        uncertain = "whether the effect happened twice. Look at both with `explain`, and take one back where it was"
        done = case.resolve(step, "--acknowledge")
        remedy = Remedy("once you have looked, and taken back what happened twice", done)
        yield case.find(Trouble.TWICE, step, step.twice_at, certain, uncertain, remedy)


def called_failed(case: Case) -> Iterator[Finding]:
    """Steps that succeeded, and whose job fails behind that, each time that it is handed back."""
    for step in case.steps:
        if step.attention != Attention.CALLBACK:
            continue
        certain = (
            f"{step.name} succeeded, and what follows it goes on. RQ calls its job failed all the same: "
            f"behind the step, in a success callback, something fails or kills the process. {case.says(step)}"
        )
        yield case.find(
            Trouble.CALLED_FAILED,
            step,
            step.ended_at,
            certain.rstrip(),
            "whether its callback did what it is there for",
            Remedy("once the callback is mended, or does not matter", case.resolve(step, "--acknowledge")),
        )


def rollback_failed(case: Case) -> Iterator[Finding]:
    """Compensations that failed for good: what they should have undone still stands."""
    told: set[str] = set()
    for target in case.members:
        if target.attention == Attention.UNDO_FAILED:
            undo = case.undo_of(target)
            told.add(undo.key if undo is not None else "")
            yield _not_undone(case, target, undo)
    for undo in case.steps:
        if undo.kind.undoes and undo.attention == Attention.EFFECT_UNKNOWN and undo.key not in told:
            target_row = next((s for s in case.steps if s.key == undo.target), undo)
            yield _not_undone(case, target_row, undo)


def _not_undone(case: Case, target: StepRow, undo: StepRow | None) -> Finding:
    retry = Remedy("to try the compensation again", case.order("retry"))
    if undo is None:
        return case.find(Trouble.ROLLBACK_FAILED, target, target.ended_at, "It could not be undone.", "", retry)
    unknown = undo.status is StepStatus.FAILED and undo.effect is Effect.UNKNOWN
    certain = f"{target.name} happened and was to be undone. Its compensation {undo.name} failed for good{_raised(undo)}."
    if not unknown:
        return case.find(Trouble.ROLLBACK_FAILED, target, undo.ended_at, certain, "", retry)
    return case.find(
        Trouble.ROLLBACK_FAILED,
        target,
        undo.ended_at,
        certain,
        f"whether the compensation had its effect before it failed{_reference(undo)}",
        Remedy("if it is undone, by the compensation or by hand", case.resolve(undo, "--happened", "null")),
        Remedy("if it is not undone (then `retry` tries the compensation again)", case.resolve(undo, "--did-not-happen")),
    )


def dead_workers(case: Case) -> Iterator[Finding]:
    """Claims of processes that are dead, or that have been silent for so long that they should be declared dead."""
    look = case.look
    for step in case.steps:
        if step.status not in (StepStatus.BEGUN, StepStatus.IN_DOUBT):
            continue
        sweep = case.sweep(step, "--once")
        if case.is_orphaned(step):
            certain = f"{_begun(case, step)} Of that process it is known: {case.its_fate(step)}."
            remedy = Remedy("a sweep puts it in doubt, and settles it as its declaration allows", sweep)
            since_when = _died(case, step) or step.begun_at
            uncertain = "whether its effect happened"
            yield case.find(Trouble.DEAD_WORKER, step, since_when, certain, uncertain, remedy, safe=True)
            continue
        worker = look.living.get(step.worker or "")
        if step.status is StepStatus.BEGUN and worker is not None and look.now - worker.beat_at > 2 * look.stale:
            silence = look.now - worker.beat_at
            seconds = str(int(2 * look.stale / SECOND))
            watch = case.sweep(step, "--for", seconds)
            certain = f"{_begun(case, step)} That process has not beaten for {span(silence)}, and nobody declared it dead."
            uncertain = "whether the process is dead or frozen, and whether the effect happened"
            remedy = Remedy("a sweeper declares it dead after watching it stand still", watch)
            yield case.find(Trouble.DEAD_WORKER, step, worker.beat_at, certain, uncertain, remedy)


def not_running(case: Case) -> Iterator[Finding]:
    """Begun steps that their living worker no longer names."""
    for step in case.steps:
        if not case.is_forgotten(step):
            continue
        certain = f"{_begun(case, step)} That process lives, and its last two beats do not name this step."
        watch = case.sweep(step, "--for", str(int(2 * case.look.stale / SECOND)))
        sweep = Remedy(
            "a sweeper puts it in doubt after seeing two more beats pass, and settles it as its declaration allows", watch
        )
        yield case.find(Trouble.NOT_RUNNING, step, step.begun_at, certain, "whether its effect happened", sweep)


def in_doubt(case: Case) -> Iterator[Finding]:
    """Doubt that nobody looks at, or that has lasted for too long."""
    look = case.look
    for step in case.steps:
        if step.status is not StepStatus.IN_DOUBT or case.is_orphaned(step) or case.is_forgotten(step):
            continue
        patience = PATIENCE + int(step.options.get("settle") or 0)
        overdue = step.next_check_at is None or step.next_check_at < look.now - OVERDUE
        if not overdue and look.now - (step.doubt_at or look.now) < patience:
            continue
        certain = f"{_begun(case, step)} It is in doubt: {case.told(step.evidence or step.doubt)}. "
        certain += (
            f"It has been due to be looked at since {since(step.next_check_at, look.now)}, and nobody did."
            if overdue
            else "It is looked at again and again, and is not settled: its worker may not be there."
        )
        sweep = case.sweep(step, "--once")
        yield case.find(
            Trouble.IN_DOUBT,
            step,
            step.doubt_at,
            certain,
            "whether its effect happened",
            Remedy("with a worker on its queue, a sweep lets it settle as its declaration allows", sweep),
            *verdicts(case, step),
            safe=True,
        )


def verdicts(case: Case, step: StepRow) -> list[Remedy]:
    """The verdicts that a person may give on a step that is in doubt or held."""
    undone = step.kind.undoes
    return [
        Remedy(
            "if it is undone" if undone else "if it happened: VALUE is what it returned, as JSON",
            case.resolve(step, "--happened", "null" if undone else VALUE),
        ),
        Remedy("if it did not happen, and is to be tried again", case.resolve(step, "--did-not-happen")),
        Remedy("if it did not happen, and is not to be tried again", case.resolve(step, "--failed")),
    ]


def _begun(case: Case, step: StepRow) -> str:
    if step.begun_at is None:
        return "Whether it began is not recorded."
    return f"Attempt {step.attempt} began {since(step.begun_at, case.look.now)} on {case.where(step)}."


def _died(case: Case, step: StepRow) -> int | None:
    worker = case.workers.get(step.worker or "")
    return None if worker is None else worker.dead_at or worker.stopped_at


def _reference(step: StepRow) -> str:
    return f" (its own name for it is {step.reference!r})" if step.reference else ""


def _raised(step: StepRow) -> str:
    """What a step raised, in one line."""
    error = error_of(step.error)
    return f" with {error_line(error)}" if error is not None else ""


#: Every function that finds trouble with single steps.
STEP_FINDINGS = (
    twice,
    called_failed,
    held,
    value_missing,
    effect_unknown,
    rollback_failed,
    drift,
    dead_workers,
    not_running,
    in_doubt,
)
