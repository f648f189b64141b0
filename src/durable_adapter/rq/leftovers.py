"""What RQ keeps of jobs that nobody runs any more, taken up in seconds. Keeps P6.

RQ looks after a started job only when it has been silent for a minute and a half, and that every ten minutes; without a
retry left it then calls it failed, whatever the journal says. A worker of ours names its row in Redis: once the journal
calls that dead, what the worker had started is queued again, and its memo, its declaration or a person decides.

One round costs a few commands a registry and a few reads of the journal, however many jobs there are.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rq.job import Job, JobStatus
from rq.registry import BaseRegistry, FailedJobRegistry, ScheduledJobRegistry, StartedJobRegistry

from ..model import ALSO_AFTER, Kind, StepRow, StepStatus
from ..runtime.order import is_done
from .aside import far_off
from .facts import last_words, of_member, status_of
from .identity import place_of
from .jobs import fetched_many
from .notes import PUT_ASIDE, counts
from .publishing import sending_again
from .rows import ROW, rows_of_starts

if TYPE_CHECKING:
    from .binding import Binding

#: How many jobs of one registry are looked at in one round; the next round goes on behind them.
BATCH = 200
#: How RQ's own verdicts on a job begin, of which its body knows nothing.
VERDICTS = ("Work-horse terminated unexpectedly", "Moved to FailedJobRegistry, due to AbandonedJobError")
#: A step whose job need not wait any more: it hands back what is recorded.
OVER = (StepStatus.SUCCEEDED, StepStatus.FAILED)
#: A step whose job waits for nothing that could come.
GIVEN_UP = (StepStatus.CANCELLED, StepStatus.UNDONE)

Steps = Mapping[tuple[str, str], StepRow]


class Leftovers:
    """The round that a worker makes over the registries of its queues."""

    def __init__(self, binding: Binding) -> None:
        self._binding = binding
        self._failures: set[tuple[str, str]] = set()
        self._at: dict[str, int] = {}

    def note_row(self, worker_key: str) -> None:
        """Names this worker's row in RQ's own hash of it; again and again, because Redis may lose it."""
        row, connection = self._binding.host.row, self._binding.engine.connection
        if row is not None and connection.exists(worker_key):
            connection.hset(worker_key, ROW, row)

    def take_up(self) -> None:
        """Queues again what dead workers had started, what waits for something that is over, what only RQ calls failed."""
        for queue in self._binding.queues:
            self._of_the_dead(queue)
            self._put_aside(queue)
            self._called_failed(queue)

    def _of_the_dead(self, queue: str) -> None:
        registry = StartedJobRegistry(queue, connection=self._binding.engine.connection)
        members = self._page(registry, 0)
        jobs = self._jobs(of_member(member) for member in members)
        started = [job for job in jobs.values() if status_of(job) is JobStatus.STARTED]
        dead = self._started_by_the_dead(started)
        left = {job.id: job for job in started if job.id in dead}
        steps = self._steps(left.values())
        for member in members:
            job = left.get(of_member(member))
            step = steps.get(place_of(job)) if job is not None else None
            if job is not None and step is not None and step.kind is not Kind.UNMARKED:
                self._queued_once(registry, member, job)

    def _put_aside(self, queue: str) -> None:
        """A delivery of a job was put aside because of something that is over meanwhile, or will never come."""
        registry = ScheduledJobRegistry(queue, connection=self._binding.engine.connection)  # type: ignore[no-untyped-call]
        jobs = self._jobs(self._page(registry, far_off()))
        # Not what RQ has scheduled for other reasons: the next tick of a repeated job, one that is to be sent in a month.
        times = counts(list(jobs.values()), PUT_ASIDE)
        aside = [job for job in jobs.values() if times[job.id]]
        steps = self._steps(aside)
        for job in aside:
            step = steps.get(place_of(job))
            match status_of(job):
                case JobStatus.FINISHED:
                    registry.connection.zrem(registry.key, job.id)
                case JobStatus.QUEUED | JobStatus.STARTED:
                    pass  # it comes again anyway, and may be put aside anew at this very moment
                case _ if step is None or step.status in GIVEN_UP:
                    self._let_go_once(registry, job)
                case _ if step.status in OVER or _may_begin(step, steps):
                    self._queued_once(registry, job.id, job)

    def _called_failed(self, queue: str) -> None:
        """A horse died when its step's success was recorded and RQ did not have it yet. Each failure is looked at once."""
        engine = self._binding.engine
        registry = FailedJobRegistry(queue, connection=engine.connection)
        members: Any = engine.connection.zrevrange(registry.key, 0, BATCH - 1, withscores=True)
        failures = {(_text(member), repr(score)) for member, score in members}
        jobs = self._jobs(job_id for job_id, _ in failures - self._failures)
        steps = self._steps(jobs.values())
        later = set()
        for failure in failures - self._failures:
            job = jobs.get(failure[0])
            step = steps.get(place_of(job)) if job is not None else None
            if job is None or step is None or step.kind is Kind.UNMARKED or step.status is not StepStatus.SUCCEEDED:
                continue
            if not last_words(job).startswith(VERDICTS):
                continue
            handed_back = engine.hand_back(step)
            if handed_back is None:
                later.add(failure)
            elif handed_back:
                self._queued_once(registry, job.id, job)
            else:
                self._binding.journal.runs.look_again(step.ref, self._binding.journal.time())
        self._failures = failures - later

    def _page(self, registry: BaseRegistry, since: float) -> list[str]:
        """Some members of a registry, other ones in each round, until all were looked at."""
        connection = self._binding.engine.connection
        start = self._at.get(registry.key, 0)
        found = [_text(member) for member in connection.zrangebyscore(registry.key, since, "+inf", start=start, num=BATCH)]
        self._at[registry.key] = start + BATCH if len(found) == BATCH else 0
        return found

    def _queued_once(self, registry: BaseRegistry, member: str, job: Job) -> None:
        """Of several workers that see it, the one that takes it out of the registry queues it."""
        engine = self._binding.engine
        if engine.connection.zrem(registry.key, member):
            with sending_again():
                engine.put_back(job)

    def _let_go_once(self, registry: BaseRegistry, job: Job) -> None:
        """Of several workers that see it, the one that takes it out of the registry cancels it."""
        engine = self._binding.engine
        if engine.connection.zrem(registry.key, job.id):
            engine.let_go(job)

    def _jobs(self, ids: Iterable[str]) -> dict[str, Job]:
        return fetched_many(list(ids), self._binding.engine.connection, self._binding.serializer)

    def _steps(self, jobs: Iterable[Job]) -> Steps:
        """The steps of the runs of several jobs, by run and key. One read."""
        refs = sorted({place_of(job)[0] for job in jobs})
        found = self._binding.journal.reads.slim_steps(refs)
        return {(step.ref, step.key): step for steps in found.values() for step in steps}

    def _started_by_the_dead(self, started: Sequence[Job]) -> set[str]:
        """Which of several started jobs a worker of ours started that is over. Of any other RQ is the judge."""
        found = rows_of_starts(started, self._binding.engine.connection, self._binding.journal)
        return {job_id for job_id, row in found.items() if row.dead_at is not None or row.stopped_at is not None}


def _may_begin(step: StepRow, steps: Steps) -> bool:
    """Whether a step that was delivered before what it comes after may begin now; of other runs, only the sweeper knows."""
    after = step.after or ()
    if step.status is not StepStatus.PLANNED or not after or step.options.get(ALSO_AFTER):
        return False
    before = [steps.get((step.ref, key)) for key in after]
    return all(row is not None and is_done(step, row) for row in before)


def _text(found: Any) -> str:
    return found.decode() if isinstance(found, bytes) else str(found)
