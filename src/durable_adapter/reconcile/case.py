"""What there is to know about one run when looking for trouble, and around it: its steps, its workers, what is running."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from ..journal.doubts import NOT_OVER
from ..model import SECOND, Cause, StepRow, StepStatus, WorkerRow, WorkflowRow, attempt_place, forward
from ..runtime.order import ready as ready
from .commands import Caller, step_word, workflow_word
from .finding import Finding, Remedy, Trouble
from .words import Vocabulary, error_of, error_type, fate, process, sentence, vocabulary, with_places

if TYPE_CHECKING:
    from ..journal import Journal
    from ..journal.surveys import Around
    from ..runtime.engine import EngineOutcome

Place = tuple[str, str]


class Witness(Protocol):
    """An engine that can be asked what became of single messages, where it is at hand. None: it cannot say."""

    def is_gone(self, step: StepRow) -> bool | None:
        """Whether nobody will ever take a step's message."""

    def queue_is_empty(self, queue: str | None) -> bool | None:
        """Whether a queue holds nothing."""

    def outcome(self, step: StepRow) -> EngineOutcome | None:
        """What its result store holds for a step."""

    def says(self, step: StepRow) -> str | None:
        """What it holds of a step's message, as a sentence without its full stop."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What holds for every run that is looked at now.

    Attributes:
        now: database time in microseconds.
        resend_after: microseconds after which a message that nobody began may count as lost.
        stale: microseconds of silence after which a worker may be declared dead.
        living: every process that neither stopped nor died, by id.
        running: the steps (run, key) that living processes name in their beats.
        former: processes that are no longer alive and that open or marked steps name, by id.
        namespace: whose runs are looked at.
        caller: how printed commands are called.
        amount: the attribute that says what is at stake, where the asker named one.
        longer_than: microseconds; waiting for longer than this is reported.
        knows: whether the code of an engine has a task of a name; None without any code.
        witnesses: the engines that can be asked about single messages, by name.
    """

    now: int
    resend_after: int
    stale: int = 60 * SECOND
    living: Mapping[str, WorkerRow] = field(default_factory=dict)
    running: frozenset[Place] = frozenset()
    former: Mapping[str, WorkerRow] = field(default_factory=dict)
    namespace: str = "default"
    caller: Caller = field(default_factory=Caller)
    amount: str | None = None
    longer_than: int | None = None
    knows: Callable[[str, str], bool] | None = None
    witnesses: Mapping[str, Witness] = field(default_factory=dict)


def read_surroundings(journal: Journal, around: Around | None = None, **asked: Any) -> Surroundings:
    """Reads what holds for every run, where it was not read yet: who lives, what they run, and who sweeps."""
    around = around or journal.around()
    return Surroundings(
        now=around.now,
        resend_after=journal.resend_after,
        living={worker.id: worker for worker in around.living},
        running=frozenset(attempt_place(name) for worker in around.living for name in worker.running),
        former={worker.id: worker for worker in around.former},
        namespace=journal.namespace,
        **asked,
    )


def _may_run(step: StepRow) -> bool:
    timed_out = step.status is StepStatus.IN_DOUBT and step.over_at == NOT_OVER
    return step.status is StepStatus.BEGUN or timed_out


def may_lack_calls(step: StepRow) -> bool:
    """Whether a function is held because the journal may have lost commits, and with them rows of its calls."""
    return step.kind.makes_calls and step.cause == Cause.LOST_COMMITS


@dataclass(frozen=True, slots=True)
class Case:
    """One run with its steps and the processes that they name."""

    run: WorkflowRow
    steps: list[StepRow]
    workers: Mapping[str, WorkerRow]
    look: Surroundings

    @property
    def members(self) -> list[StepRow]:
        """The steps that go forward, by position."""
        return forward(self.steps)

    def undo_of(self, target: StepRow) -> StepRow | None:
        """The compensation of a step, where one was planned."""
        return next((s for s in self.steps if s.target == target.key), None)

    def runs(self, step: StepRow) -> bool:
        """Whether a living process says that it runs this step."""
        return (step.ref, step.key) in self.look.running

    def is_orphaned(self, step: StepRow) -> bool:
        """Whether a step may be running, as far as its row knows, in a process that is dead, stopped or gone."""
        if not _may_run(step):
            return False
        worker = self.workers.get(step.worker or "")
        if worker is None:  # one that registered after the workers were read began after that, too
            return (step.begun_at or 0) < self.look.now
        return worker.has_ended

    def is_forgotten(self, step: StepRow) -> bool:
        """Whether the last two beats of the living worker that began a step do not name it."""
        worker = self.look.living.get(step.worker or "")
        if worker is None or not _may_run(step) or (step.begun_at or 0) >= worker.previous_beat_at:
            return False
        return not worker.names(step)

    def where(self, step: StepRow) -> str:
        """On which process a step was run last."""
        return process(self.workers.get(step.worker or ""), step.worker)

    def its_fate(self, step: StepRow) -> str:
        """What became of that process."""
        return fate(self.workers.get(step.worker or ""), self.look.now, self.look.stale)

    def told(self, text: str | None) -> str:
        """A recorded reason, with processes by their names."""
        return with_places(text or "", self.workers).rstrip(".")

    @property
    def newest(self) -> int:
        """When anything was last recorded of the run."""
        times = (t for s in self.steps for t in (s.created_at, s.begun_at, s.ended_at, s.doubt_at) if t is not None)
        return max([self.run.created_at, *times])

    @property
    def next_check_at(self) -> int | None:
        """When a sweeper looks at the run, or at one of its steps, the next time; None where nothing is to be looked at."""
        looks = [self.run.next_check_at, *(s.next_check_at for s in self.steps)]
        return min((at for at in looks if at is not None), default=None)

    @property
    def ready(self) -> list[tuple[StepRow, int]]:
        """The members of a canvas that are to begin and have not, and since when."""
        return ready(self.run, self.steps)

    def engine(self, step: StepRow | None = None) -> str:
        """What sends a step: the engine that it was dispatched to, else its run's."""
        return (step.engine if step is not None else None) or self.run.engine

    def vocabulary(self, step: StepRow | None = None) -> Vocabulary:
        """The words of that engine."""
        return vocabulary(self.engine(step))

    def witness(self, step: StepRow) -> Witness | None:
        """That engine, where it can be asked about single messages."""
        return self.look.witnesses.get(self.engine(step)) if step.task_id is not None else None

    def says(self, step: StepRow) -> str:
        """What that engine holds of a step's message, as a sentence; empty where it is not known."""
        witness = self.witness(step)
        told = witness.says(step) if witness is not None else None
        return sentence(told or "")

    @property
    def amount(self) -> str | None:
        """What is at stake, where an attribute says so."""
        return self.run.at_stake(self.look.amount)

    def find(
        self,
        kind: Trouble,
        step: StepRow | None,
        since: int | None,
        certain: str,
        uncertain: str = "",
        *remedies: Remedy,
        safe: bool = False,
    ) -> Finding:
        """A finding about this run."""
        return Finding(
            kind=kind,
            workflow=workflow_word(self.run),
            ref=self.run.ref,
            name=self.run.name,
            step=None if step is None else step.name,
            key=None if step is None else step.key,
            since=since,
            certain=certain,
            uncertain=uncertain,
            amount=self.amount,
            remedies=remedies,
            safe=safe,
            place=(step.queue or "") if step is not None else "",
            error=error_type(error_of(step.error) if step is not None else None),
            started=self.run.created_at,
        )

    def resolve(self, step: StepRow, verdict: str, value: str | None = None, *, sends: bool = False) -> str:
        """The command that gives a verdict on a step."""
        words = [verdict] if value is None else [verdict, value]
        place = workflow_word(self.run), step_word(step, self.steps)
        return self.look.caller.change("resolve", *words, ids=place, sends=[self.engine(step)] if sends else ())

    def acknowledge(self) -> str:
        """The command that takes the whole run off the list of findings."""
        return self.look.caller.change("resolve", "--acknowledge", ids=[workflow_word(self.run)])

    def sweep(self, step: StepRow, *words: str) -> str:
        """What sweeps with the engines of a step and its run."""
        return self.look.caller.sweep(*words, engines={self.run.engine, self.engine(step)})

    def order(self, verb: str) -> str:
        """The command that gives an order about the whole run."""
        return self.look.caller.change(verb, ids=[workflow_word(self.run)])
