"""Recovery of jobs that RQ keeps and that nobody runs any more, within seconds. Keeps P6.

RQ looks after a started job only when it has been silent for a minute and a half, and that every ten minutes; without a
retry left it then calls it failed, whatever the journal says. A worker of ours names its row in Redis: once the journal
calls that dead, what the worker had started is queued again. What becomes of each job is decided in `runtime.orphans`.

One round costs a few commands a registry and a few reads of the journal, however many jobs there are.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any

from rq.job import Job, JobStatus
from rq.registry import BaseRegistry, FailedJobRegistry, ScheduledJobRegistry, StartedJobRegistry

from ..model import StepRow
from ..runtime.orphans import HAND_BACKS, Orphan, hands_back, is_success, of_dead_worker, put_aside
from ..runtime.publication import publishing
from .binding import Binding
from .deferring import long_deferred
from .facts import aware, failure_text, job_id_of, status_of, text_of
from .fields import HANDED_BACK, PUT_ASIDE, WORKER_ROW, count, counts, increment, rows_of_starts
from .identity import belongs, place_of
from .jobs import fetched_many
from .place import cancel

#: Jobs of one registry that are checked in one round; the next round goes on behind them.
BATCH = 200
#: Beginnings of the failures that RQ itself records for a job, of which its body knows nothing.
DEATH_NOTICES = ("Work-horse terminated unexpectedly", "Moved to FailedJobRegistry, due to AbandonedJobError")
#: Statuses of a job that RQ will not run again, and that is not done.
CALLED_OFF = (JobStatus.FAILED, JobStatus.STOPPED, JobStatus.CANCELED)

Steps = Mapping[tuple[str, str], StepRow]


def hand_back(binding: Binding, step: StepRow) -> bool | None:
    """Whether RQ gets a job once more whose step succeeded and which it calls failed; None where it is not time yet."""
    place = binding.place_of(step)
    if place is None:
        return None
    job = place.job_of(step)
    if job is None or not belongs(job, step) or status_of(job) not in CALLED_OFF:
        return True
    tried = count(job, HANDED_BACK)
    failed_at = aware(job.ended_at).timestamp() if job.ended_at is not None else 0.0
    decided = hands_back(binding.journal, step, tried, failed_at=failed_at, now=time.time())
    if decided is not None and tried <= HAND_BACKS:
        increment(job, HANDED_BACK)
    return decided


class OrphanRecovery:
    """The round that a worker makes over the registries of its queues."""

    def __init__(self, binding: Binding) -> None:
        self._binding = binding
        self._failures: set[tuple[str, str]] = set()
        self._at: dict[str, int] = {}

    def note_row(self, worker_key: str) -> None:
        """Names this worker's row in RQ's own hash of it; again and again, because Redis may lose it."""
        row, connection = self._binding.host.row, self._binding.here.connection
        if row is not None and connection.exists(worker_key):
            connection.hset(worker_key, WORKER_ROW, row)

    def recover(self) -> None:
        """Queues again what dead workers had started, what waits for something that is over, what only RQ calls failed."""
        for queue in self._binding.queues:
            self._started_by_dead_workers(queue)
            self._deferred(queue)
            self._failed_only_in_rq(queue)

    def _started_by_dead_workers(self, queue: str) -> None:
        registry = StartedJobRegistry(queue, connection=self._binding.here.connection)
        members = self._page(registry, 0)
        jobs = self._jobs(job_id_of(member) for member in members)
        started = [job for job in jobs.values() if status_of(job) is JobStatus.STARTED]
        # Which of them a worker of ours started that is over. Of any other RQ is the judge.
        rows = rows_of_starts(started, registry.connection, self._binding.journal)
        dead = {job_id for job_id, row in rows.items() if row.dead_at is not None or row.stopped_at is not None}
        left = {job.id: job for job in started if job.id in dead}
        steps = self._steps(left.values())
        for member in members:
            job = left.get(job_id_of(member))
            if job is not None and of_dead_worker(steps.get(place_of(job))) is Orphan.SENT_AGAIN:
                self._queued_once(registry, member, job)

    def _deferred(self, queue: str) -> None:
        """A delivery of a job was put aside because of something that is over meanwhile, or will never come."""
        registry = ScheduledJobRegistry(queue, connection=self._binding.here.connection)  # type: ignore[no-untyped-call]
        jobs = self._jobs(self._page(registry, long_deferred()))
        # Not what RQ has scheduled for other reasons: the next tick of a repeated job, one that is to be sent in a month.
        times = counts(list(jobs.values()), PUT_ASIDE)
        deferred = [job for job in jobs.values() if times[job.id]]
        steps = self._steps(deferred)
        for job in deferred:
            status = status_of(job)
            if status is JobStatus.FINISHED:
                registry.connection.zrem(registry.key, job.id)
            if status in (JobStatus.FINISHED, JobStatus.QUEUED, JobStatus.STARTED):
                continue  # it comes again anyway, and may be deferred again at this moment
            decided = put_aside(steps.get(place_of(job)), steps)
            if decided is Orphan.SENT_AGAIN:
                self._queued_once(registry, job.id, job)
            elif decided is Orphan.CANCELLED and registry.connection.zrem(registry.key, job.id):
                cancel(job)  # of several workers that see it, the one that takes it out of the registry

    def _failed_only_in_rq(self, queue: str) -> None:
        """A horse died when its step's success was recorded and RQ did not have it yet. Each failure is looked at once."""
        registry = FailedJobRegistry(queue, connection=self._binding.here.connection)
        members: Any = registry.connection.zrevrange(registry.key, 0, BATCH - 1, withscores=True)
        failures = {(text_of(member), repr(score)) for member, score in members}
        jobs = self._jobs(job_id for job_id, _ in failures - self._failures)
        steps = self._steps(jobs.values())
        later = set()
        for failure in failures - self._failures:
            job = jobs.get(failure[0])
            step = steps.get(place_of(job)) if job is not None else None
            if job is None or step is None or not is_success(step) or not failure_text(job).startswith(DEATH_NOTICES):
                continue
            handed_back = hand_back(self._binding, step)
            if handed_back is None:
                later.add(failure)
            elif handed_back:
                self._queued_once(registry, job.id, job)
            else:
                self._binding.journal.due.check_again(step.ref, self._binding.journal.time())
        self._failures = failures - later

    def _page(self, registry: BaseRegistry, since: float) -> list[str]:
        """Some members of a registry, other ones in each round, until all were looked at."""
        start = self._at.get(registry.key, 0)
        found = registry.connection.zrangebyscore(registry.key, since, "+inf", start=start, num=BATCH)
        self._at[registry.key] = start + BATCH if len(found) == BATCH else 0
        return [text_of(member) for member in found]

    def _queued_once(self, registry: BaseRegistry, member: str, job: Job) -> None:
        """Of several workers that see it, the one that takes it out of the registry queues it."""
        if registry.connection.zrem(registry.key, member):
            with publishing(is_repeated=True):
                self._binding.here.put_back(job)

    def _jobs(self, ids: Iterable[str]) -> dict[str, Job]:
        return fetched_many(list(ids), self._binding.here.connection, self._binding.serializer)

    def _steps(self, jobs: Iterable[Job]) -> Steps:
        """The steps of the runs of several jobs, by run and key. One read."""
        refs = sorted({place_of(job)[0] for job in jobs})
        found = self._binding.journal.reads.slim_steps(refs)
        return {(step.ref, step.key): step for steps in found.values() for step in steps}
