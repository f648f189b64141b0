"""The story of one run in English: where it stands, what ran, what is in doubt and why, who decided what, and what is next.

Told for somebody who reads it in the middle of the night. Every sentence is made from `story`'s facts; nothing is read here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..model import (
    FORWARD_WORKFLOWS,
    OPEN_WORKFLOWS,
    Attention,
    Event,
    Safety,
    Shape,
    StepRow,
    StepStatus,
    WorkflowStatus,
)
from .story import Story
from .values import Values
from .words import (
    EFFECTS,
    Vocabulary,
    error_line,
    error_of,
    fate,
    moment,
    process,
    since,
    span,
    status_words,
    vocabulary,
    with_places,
)

#: What makes a step safe to repeat, said to a person.
_SAFETY = {
    Safety.PROTECTED: "nothing makes it safe to repeat",
    Safety.IDEMPOTENT: "idempotent",
    Safety.TRANSACTIONAL: "transactional",
    Safety.PROBE: "has a probe",
}
_STATUS = {
    StepStatus.PLANNED: "not begun",
    StepStatus.WAITING: "to be tried again",
    StepStatus.BEGUN: "RUNNING",
    StepStatus.IN_DOUBT: "IN DOUBT",
    StepStatus.HELD: "HELD",
    StepStatus.SUCCEEDED: "succeeded",
    StepStatus.FAILED: "FAILED",
    StepStatus.CANCELLED: "cancelled",
    StepStatus.UNDONE: "undone",
}


@dataclass(frozen=True, slots=True)
class Moment:
    """One thing that happened."""

    at: int
    says: str
    why: str = ""


@dataclass(frozen=True)
class Telling:
    """One story in English.

    Attributes:
        story: the facts.
        values: how values are shown.
    """

    story: Story
    values: Values

    @property
    def title(self) -> str:
        """The workflow's own name and id."""
        name = self.story.run.id if self.story.run.declared else self.story.run.ref
        return f"{name} · {self.story.run.name}"

    @property
    def state(self) -> str:
        """Where it stands, in one sentence."""
        run = self.story.run
        if self.story.findings:
            first = self.story.findings[0]
            waits = not all(f.safe for f in self.story.findings)
            what = status_words(first.kind)
            who = "a person must decide" if waits else "a sweep mends it"
            return f"{status_words(run.status)}, in trouble: {what}{f' ({first.step})' if first.step else ''}; {who}"
        running = [s for s in self.story.steps if s.status is StepStatus.BEGUN]
        if run.status in OPEN_WORKFLOWS and running:
            return f"{status_words(run.status)}: {running[0].name} runs on {self._where(running[0])}"
        asleep = next((s for s in self.story.steps if s.kind.timed and s.status is StepStatus.WAITING), None)
        if run.status in FORWARD_WORKFLOWS and asleep is not None and asleep.kind.timed:
            return f"{asleep.kind.timed.doing} until {since(asleep.next_check_at, self.story.now)}; no worker is held"
        if run.status is WorkflowStatus.SUSPENDED:
            if run.wake_at is not None and run.wake_at <= self.story.now:
                return f"woken {since(run.wake_at, self.story.now)}, after waiting for {run.waiting_for or 'a wake-up'}"
            until = f", until {since(run.wake_at, self.story.now)}" if run.wake_at is not None else ""
            return f"waiting for {run.waiting_for or 'its next wake-up'}{until}; no worker is held"
        waiting = next((s for s in self.story.steps if s.status is StepStatus.WAITING), None)
        if run.status in OPEN_WORKFLOWS and waiting is not None:
            return f"{status_words(run.status)}: {waiting.name} is tried again {since(waiting.next_check_at, self.story.now)}"
        if run.status in OPEN_WORKFLOWS:
            following = next((s for s in self.story.steps if s.status is StepStatus.PLANNED), None)
            return f"{status_words(run.status)}: {following.name} is next" if following is not None else status_words(run.status)
        took = f" after {span(run.ended_at - run.created_at)}" if run.ended_at is not None else ""
        return f"{status_words(run.status)}{took}"

    @property
    def facts(self) -> list[str]:
        """What it is, line by line."""
        run = self.story.run
        shape = "workflow function" if run.shape is Shape.FUNCTION else "chain"
        if run.shape is Shape.CANVAS and self.story.members:
            shape = f"chain of {len(self.story.members)} steps" if len(self.story.members) > 1 else f"single {self._words.task}"
        lines = [
            f"a {shape} on {'RQ' if run.engine == 'rq' else run.engine}, started {since(run.created_at, self.story.now)}",
            f"run {run.run}, reference {run.ref}",
        ]
        if run.pruned_at is not None:
            kept = "only its id, its status and its fingerprint are kept, so that it is not started twice"
            lines.append(f"its steps were forgotten {since(run.pruned_at, self.story.now)}: {kept}")
        if run.code_version:
            lines.append(f"started by code version {run.code_version}")
        if run.parent:
            lines.append(f"started by run {run.parent}")
        if self.story.next_check_at is not None and run.ended_at is None:
            nobody = ", and nobody sweeps" if self.story.unswept else ""
            lines.append(f"the next look at it is due {since(self.story.next_check_at, self.story.now)}{nobody}")
        if run.attributes:
            shown = ", ".join(f"{k}={v}" for k, v in run.attributes.items())
            lines.append(f"attributes: {shown}" if self.values.show else f"attributes: {', '.join(run.attributes)} (masked)")
        if (error := error_of(run.error)) is not None:
            lines.append(f"failed with {error_line(error)}")
        return lines

    @property
    def _words(self) -> Vocabulary:
        return vocabulary(self.story.run.engine)

    def _mark(self, attention: str) -> str:
        """What a person should look at, in the words of the run's engine."""
        if attention == Attention.UNMARKED:
            return f"the chain stands at an unmarked {self._words.task}"
        return _MARKS.get(attention, attention)

    def _where(self, step: StepRow) -> str:
        return process(self.story.workers.get(step.worker or ""), step.worker)

    def step_lines(self, step: StepRow) -> list[str]:
        """One step: what became of it, and below it the reasons and the values."""
        head = f"{step.name}: {_STATUS[step.status]}"
        if step.kind.undoes:
            target = next((s.name for s in self.story.steps if s.key == step.target), step.target)
            head = f"{step.name} (undoes {target}): {_STATUS[step.status]}"
        lines = [f"{head}{self._circumstances(step)}"]
        if step.task_id is not None and not step.kind.timed:
            lines[0] += f", {vocabulary(step.engine or self.story.run.engine).task} {step.task_id}"
        if not step.kind.marked:
            lines.append("not marked durable: only its end is recorded; it is never sent again by itself")
        settled = step.status in (StepStatus.SUCCEEDED, StepStatus.UNDONE, StepStatus.CANCELLED)
        because = "it was in doubt because" if settled else "in doubt because"
        for label, text in ((because, step.doubt), ("evidence", step.evidence), ("decided by", step.verdict)):
            if text and not (
                label == "evidence" and (text == step.doubt or step.status in (StepStatus.BEGUN, StepStatus.WAITING))
            ):
                lines.append(f"{label}: {with_places(text, self.story.workers)}")
        if step.status in (StepStatus.FAILED, StepStatus.WAITING, StepStatus.IN_DOUBT, StepStatus.HELD):
            error = error_of(step.error)
            if error is not None:
                effect = f"; its effect {EFFECTS[step.effect]}" if step.effect is not None else ""
                lines.append(f"it raised {error_line(error)}{effect}")
        if step.marks:
            lines.append(f"in front of a person: {', '.join(self._mark(mark) for mark in step.marks)}")
        if step.heartbeat_at is not None:
            said = self.values.details(step)
            says = f", and said {self._readable(repr(said))}" if said is not None else ""
            lines.append(f"its body was heard {since(step.heartbeat_at, self.story.now)}{says}")
        if step.reference:
            lines.append(f"the provider calls it {step.reference}")
        if step.key in self.story.said:
            lines.append(f"seen now: {self.story.said[step.key]}")
        if step.status in (StepStatus.IN_DOUBT, StepStatus.HELD, StepStatus.BEGUN, StepStatus.WAITING, StepStatus.FAILED):
            lines.append(f"safety: {_SAFETY[step.safety]}")
        arguments = self.values.arguments(self.story.run, step)
        if arguments is not None and (arguments["args"] or arguments["kwargs"]):
            lines.append(f"given: {self._readable(_call(arguments))}")
        if step.outcome is not None and not step.kind.timed:
            lines.append(f"returned: {self._readable(repr(self.values.outcome(step)))}")
        return lines

    def _readable(self, text: str) -> str:
        """Shapes stand without quotes, so that nobody takes them for values."""
        return text if self.values.show else text.replace("'", "")

    def _circumstances(self, step: StepRow) -> str:
        parts = []
        if step.ended_at is not None and step.begun_at is not None and step.status is not StepStatus.CANCELLED:
            took = step.ended_at - step.begun_at
            parts.append(f"at {moment(step.ended_at)}" + (f", {span(took)} after it began" if took >= 1000 else ""))
        elif step.ended_at is not None:
            parts.append(f"at {moment(step.ended_at)}")
        elif step.status is StepStatus.BEGUN:
            parts.append(f"since {since(step.begun_at, self.story.now)}")
        elif step.status in (StepStatus.IN_DOUBT, StepStatus.HELD):
            parts.append(f"since {since(step.doubt_at, self.story.now)}")
        elif step.status is StepStatus.WAITING:
            parts.append(f"due {since(step.next_check_at, self.story.now)}")
        if step.attempt:
            parts.append(f"attempt {step.attempt}")
        if step.worker is not None and not step.kind.timed:
            where = f"on {self._where(step)}"
            if step.status in (StepStatus.BEGUN, StepStatus.IN_DOUBT, StepStatus.HELD):
                where += f"; {fate(self.story.workers.get(step.worker), self.story.now, self.story.look.stale)}"
            parts.append(where)
        return " " + ", ".join(parts) if parts else ""

    @property
    def moments(self) -> list[Moment]:
        """What happened, in order: from the rows what they tell, from the events the rest."""
        told = [Moment(self.story.run.created_at, "it was started")]
        names = {s.key: s.name for s in self.story.steps}
        failures = {e["key"] for e in self.story.events if e["kind"] == Event.STEP_FAILED}
        for step in self.story.steps:
            told += self._of_step(step, told_by_event=step.status is StepStatus.FAILED and step.key in failures)
        told += [Moment(e["at"], *self._of_event(e, names)) for e in self.story.events]
        if self.story.run.ended_at is not None:
            told.append(Moment(self.story.run.ended_at, f"the workflow ended: {status_words(self.story.run.status)}"))
        return sorted(told, key=lambda m: m.at)

    def _of_step(self, step: StepRow, *, told_by_event: bool) -> list[Moment]:
        if step.kind.timed:
            words = step.kind.timed
            told = [
                Moment(
                    step.created_at, f"{words.begun} until {moment(step.next_check_at)}" if step.next_check_at else words.begun
                )
            ]
            return told + ([Moment(step.ended_at, words.over)] if step.ended_at is not None else [])
        told = []
        on = f" on {self._where(step)}" if step.worker is not None else ""
        ended = step.ended_at is not None and step.status is not StepStatus.CANCELLED and not told_by_event
        quick = ended and step.begun_at is not None and (step.ended_at or 0) - step.begun_at < 1_000_000
        if step.begun_at is not None and not quick:
            told.append(Moment(step.begun_at, f"{step.name}: attempt {step.attempt} began{on}"))
        if ended:
            what = "ran, and was undone later" if step.status is StepStatus.UNDONE else _STATUS[step.status].lower()
            attempt = f", attempt {step.attempt}{on}" if quick else ""
            told.append(Moment(step.ended_at or 0, f"{step.name} {what}{attempt}"))
        return told

    def _of_event(self, event: dict[str, Any], names: Mapping[str, str]) -> tuple[str, str]:
        """An event as a sentence, and its reason."""
        kind, detail = event["kind"], self.values.detail(event["detail"])
        name = names.get(event["key"] or "", event["key"] or "the workflow")
        who, why = self._who(event["who"]), with_places(event["why"] or "", self.story.workers)
        match kind:
            case Event.OPERATOR:
                return f"{who} ordered: {detail.get('action', 'something')}", why
            case Event.VERDICT:
                return f"{who} decided: {name} {detail.get('verdict', '')}", why
            case Event.ATTEMPT_FAILED:
                wait = detail.get("next_in_seconds")
                return f"{name}: an attempt ended, the next is due" + (f" {float(wait):g} s later" if wait else ""), why
            case Event.IN_DOUBT:
                return f"{name} was put in doubt", why
            case Event.HELD:
                return f"{name} was held for a person", why
            case Event.TAKEN_OVER:
                return f"{name}: a new attempt was allowed", why
            case Event.LATE_SUCCESS:
                shown = f", and returned {detail['outcome']!r}" if "outcome" in detail else ""
                return f"{name}: an attempt reported success too late{shown}", why
            case Event.LATE_FAILURE:
                return f"{name}: an attempt reported a failure too late", why
            case Event.SUPPRESSED:
                return f"{name}: another {self._words.message} of it came, and was left alone", why
            case Event.SENT_AGAIN:
                return f"{name}: its {self._words.message} was sent again", why
            case Event.ENDED_BY_ENGINE:
                return f"{name} was ended by its engine before it began", why
            case Event.STEP_FAILED:
                effect = EFFECTS.get(detail.get("effect"), "is not known")
                return f"{name} failed for good; its effect {effect}", why
            case Event.ROLLBACK:
                return "the rollback began", why
            case Event.DRIFT:
                return f"{name} was stopped: the code no longer fits what is recorded", why
            case Event.VALUE_MISSING:
                return f"{name} happened, but its value could not be recorded", why
            case Event.REFUSED:
                return f"a {self._words.message} of {detail.get('name', name)} was refused", why
            case _:
                return f"{name}: {str(kind).replace('_', ' ')}", why

    def _who(self, who: str | None) -> str:
        """A person, or the process behind an id."""
        if not who:
            return "somebody"
        worker = self.story.workers.get(who)
        return process(worker, who) if worker is not None else who


def _call(arguments: Mapping[str, Any]) -> str:
    args = arguments["args"] if isinstance(arguments["args"], list) else [arguments["args"]]
    kwargs = arguments["kwargs"] if isinstance(arguments["kwargs"], dict) else {}
    return ", ".join([*(repr(a) for a in args), *(f"{k}={v!r}" for k, v in kwargs.items())])


_MARKS: dict[str, str] = {
    Attention.TWICE.value: "it may have happened twice",
    Attention.EFFECT_UNKNOWN.value: "it failed, and its effect may have happened",
    Attention.VALUE_MISSING.value: "it happened, and its value is missing",
    Attention.DRIFT.value: "the code may not fit what is recorded",
    Attention.UNDO_FAILED.value: "it could not be undone",
    Attention.ENDED_BY_ENGINE.value: "its engine ended it before it began",
    Attention.CALLBACK.value: "it succeeded, and its job fails behind it",
}
