"""Checks of RQ: who serves its queues and whether they are hooked, who publishes without the plugin, what RQ does by default.

Asks through the room that knows RQ; imports no queue library.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from ...model import Mode
from .check import Check, failed, note, ok, slow, unsafe

if TYPE_CHECKING:
    from ...journal import Journal
    from ...model import WorkerRow
    from ...settings import Settings
    from ..engines import RQ

#: What a worker of ours is started as.
OURS = "rq worker -w durable_adapter.rq.Worker (or SimpleWorker, SpawnWorker), or RQ_WORKER_CLASS=durable_adapter.rq.Worker"
#: Seconds in which a worker that was just started has not shown up in the journal yet.
YOUNG = 5.0
#: RQ's own default for how long a worker counts as alive without a sign, in seconds; an idle one blocks for nearly as long.
WORKER_TTL = 420
#: RQ's defaults for how often a running job is looked after, and for how long its result is kept, in seconds.
MONITORING, RESULT_TTL = 30, 500
#: What an RQ before 2.1 has no means for.
NO_WAITING = "a workflow function cannot wait (durable.sleep(), steps that it enqueues)"
#: Names that one line shows.
SHOWN = 5


def rq_checks(rq: RQ, settings: Settings, journal: Journal | None) -> Iterator[Check]:
    """RQ as it is named. Stops where Redis does not answer."""
    yield _version(rq)
    yield from _installed(rq, settings)
    try:
        server = rq.command.server(rq.connection)
    except Exception as error:
        cure = "check the URL and the server; give it with -u, -c, RQ_REDIS_URL or RQ_CONFIG"
        yield failed("rq_redis", f"{rq.where} does not answer: {type(error).__name__}: {error}", cure)
        return
    yield from _redis(rq, server)
    living = journal.workers.alive(namespace=journal.namespace) if journal is not None else None
    workers = rq.command.workers(rq.connection)
    queues = rq.command.queues(rq.binding, rq.queues)
    hooked = [w for w in workers if living is not None and _is_hooked(w, living)]
    if living is not None:
        yield _workers(workers, hooked, settings)
        yield _queues(queues, workers, hooked, rq.queues)
    yield _publishers(queues)
    yield from _old_workers(rq, workers)
    yield from _timings(workers, hooked)
    yield _results(queues)


def _version(rq: RQ) -> Check:
    version, level = rq.command.FOUND, rq.command.Level
    match rq.command.level(version):
        case level.FULL:
            return ok("rq_version", f"RQ {version}: every promise, and workflow functions that wait")
        case level.STEPS:
            newer = rq.command.FROM[level.FULL]
            return note(
                "rq_version", f"RQ {version}: memo, rollback and reconciliation hold; {NO_WAITING}",
                f"nothing, if no function waits; else upgrade RQ in the workers to {newer} or newer",
            )  # fmt: skip
    oldest = rq.command.FROM[level.STEPS]
    return unsafe("rq_version", f"RQ {version} is older than {oldest}: install() refuses it", f"upgrade RQ to {oldest} or newer")


def _installed(rq: RQ, settings: Settings) -> Iterator[Check]:
    """Whether the code that publishes is hooked, as far as it was imported."""
    if settings.mode is Mode.OFF:
        yield unsafe("rq_installed", "mode is off: no new start is made durable", "set mode=enforce")
    elif rq.command.is_installed():
        yield ok("rq_installed", "the imported code calls durable_adapter.rq.install()")
    elif rq.code.modules:
        names = _names([module.__name__ for module in rq.code.modules])
        yield note(
            "rq_installed", f"of what was imported, nothing calls durable_adapter.rq.install(): {names}",
            "workers of ours install by themselves; a process that publishes has to call install() before it enqueues",
        )  # fmt: skip
    else:
        yield note(
            "rq_installed", "no code was imported, so that it is not known what is marked and who calls install()",
            "name the modules with --import, such as --import shop.jobs",
        )  # fmt: skip
    if not rq.code.modules:
        return
    marked = rq.command.marked_names(rq.binding, rq.code.modules)
    if not marked:
        yield note("rq_marked", "no function of the imported modules is marked durable", "decorate jobs that have effects")
        return
    registry = rq.binding.registry
    counts = Counter("workflow" if name in registry.workflows else registry.policy(name).safety.value for name in marked)
    kinds = ", ".join(f"{number} {kind}" for kind, number in sorted(counts.items()))
    yield ok("rq_marked", f"{len(marked)} durable functions: {kinds}")


def _redis(rq: RQ, server: dict[str, Any]) -> Iterator[Check]:
    yield ok("rq_redis", f"{rq.where} answers, Redis {server['version']}")
    kept = [word for word, on in (("an append-only file", server["aof"]), ("snapshots", bool(server["save"]))) if on]
    if kept:
        yield ok("rq_persistence", f"Redis keeps {' and '.join(kept)}")
    elif server["save"] is None:
        yield ok("rq_persistence", "Redis keeps no append-only file, and does not say whether it keeps snapshots: either is fine")
    else:
        yield ok(
            "rq_persistence",
            "Redis keeps nothing on disk, and that is fine: the journal holds every durable job, and the sweepers make it again "
            "under the same id. Jobs that are not marked are lost with Redis, as ever",
        )
    if server["eviction"] != "noeviction" and server["maxmemory"]:
        yield slow(
            "rq_eviction",
            f"maxmemory-policy is {server['eviction']}: a full Redis throws jobs and queues away. Durable jobs are sent again by "
            "the sweepers, others are lost",
            "set maxmemory-policy noeviction, as RQ's own documentation asks for",
        )


def _is_hooked(worker: Any, living: Sequence[WorkerRow]) -> bool:
    """Whether the journal has a living row of the same process."""
    return any("rq" in row.engine.split(",") and (row.host, row.pid) == (worker.host, worker.pid) for row in living)


def _named(workers: Sequence[Any]) -> str:
    return _names([f"{w.name} on {w.host or 'an unknown host'} pid {w.pid} ({', '.join(w.queues)})" for w in workers], "; ")


def _names(names: Sequence[str], between: str = ", ") -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return between.join(names[:SHOWN]) + more


def _workers(workers: Sequence[Any], hooked: Sequence[Any], settings: Settings) -> Check:
    """Workers without the plugin run marked jobs as plain ones, and nothing of it is journaled."""
    if not workers:
        return note("rq_workers", "no worker of RQ is alive", f"start one: {OURS}")
    without = [w for w in workers if w not in hooked and w.age >= YOUNG]
    if not without:
        young = len(workers) - len(hooked)
        return ok("rq_workers", f"{len(hooked)} with the plugin" + (f", {young} that just started" if young else ""))
    found = f"{len(without)} of {len(workers)} workers are not known to the journal: {_named(without)}"
    if not settings.sweeper:
        return note(
            "rq_workers", f"{found}. With sweeper=false a worker of ours shows up only with its first durable job",
            f"see that they are started as {OURS}",
        )  # fmt: skip
    return unsafe(
        "rq_workers", f"{found}. They run marked jobs without the plugin: what they do is not journaled, and may be done twice",
        f"start them as {OURS}, with the same journal as this one",
    )  # fmt: skip


def _queues(queues: Sequence[Any], workers: Sequence[Any], hooked: Sequence[Any], named: Sequence[str]) -> Check:
    """Queues that hold durable jobs, or that the settings name, and that no worker with the plugin serves."""
    served = {name for worker in hooked for name in worker.queues}
    plain = {name for worker in workers for name in worker.queues} - served
    wanted = [queue for queue in queues if queue.durable or queue.name in named]
    missing = [queue for queue in wanted if queue.name not in served]
    if missing:
        told = [
            f"{queue.name} ({queue.waiting} waiting" + (", served by workers without the plugin)" if queue.name in plain else ")")
            for queue in missing
        ]
        return slow("rq_queues", f"no living worker with the plugin serves: {_names(told)}", f"start workers for them: {OURS}")
    return ok("rq_queues", f"served: {', '.join(sorted(served)) or 'none is wanted'}")


def _publishers(queues: Sequence[Any]) -> Check:
    """Marked functions whose jobs carry no run: whoever enqueued them does not have the plugin installed."""
    unstamped: Counter[str] = Counter()
    for queue in queues:
        unstamped.update(queue.unstamped)
    looked_at = sum(queue.looked_at for queue in queues)
    if not unstamped:
        return ok("rq_publishers", f"of {looked_at} jobs looked at, no marked one was enqueued without the plugin")
    names = _names([f"{name} ({count})" for name, count in unstamped.most_common()])
    return unsafe(
        "rq_publishers",
        f"jobs of marked functions were enqueued by a process without the plugin: {names}. The journal knows nothing of them "
        "before a worker begins them: lost with Redis, they are lost; and what they depend on is not followed",
        "call durable_adapter.rq.install() in the process that enqueues, with the same journal, before it enqueues",
    )


def _old_workers(rq: RQ, workers: Sequence[Any]) -> Iterator[Check]:
    level, since = rq.command.Level, rq.command.FROM
    old = [w for w in workers if rq.command.level(w.version) is level.REFUSED]
    if old:
        cure = f"upgrade RQ there to {since[level.STEPS]} or newer"
        yield unsafe("rq_worker_versions", f"these workers run an RQ that is too old: {_named(old)}", cure)
    versions = sorted({w.version for w in workers})
    if len(versions) > 1 and not old:
        yield note("rq_worker_versions", f"workers run different versions of RQ: {', '.join(versions)}", "finish the upgrade")
    without = [w for w in workers if rq.command.level(w.version) is level.STEPS]
    if without and rq.command.level(rq.command.FOUND) is level.FULL:
        yield note(
            "rq_worker_versions", f"in these workers {NO_WAITING}: {_named(without)}",
            f"nothing, if no function waits; else upgrade RQ there to {since[level.FULL]} or newer",
        )  # fmt: skip


def _timings(workers: Sequence[Any], hooked: Sequence[Any]) -> Iterator[Check]:
    """What RQ itself recovers takes minutes by default; what is durable is the sweepers' to recover, and does not wait for it."""
    patient = [w for w in workers if w.ttl is not None and w.state != "busy" and w.ttl >= WORKER_TTL]
    if not patient:
        return
    found = (
        f"{len(patient)} workers have RQ's default worker ttl or more ({max(w.ttl for w in patient):.0f} s): an idle one looks "
        f"after abandoned jobs only that often, and a running job is looked after every {MONITORING} s "
        "(--job-monitoring-interval)"
    )
    cure = "start workers with --worker-ttl 60 --maintenance-interval 30 --job-monitoring-interval 10"
    if hooked:
        yield note("rq_timings", f"{found}. Durable jobs do not wait for that: the sweepers find them within `stale`", cure)
    else:
        yield slow("rq_timings", f"{found}. No worker with the plugin is there to be quicker", cure)


def _results(queues: Sequence[Any]) -> Check:
    thrown = sorted({name for queue in queues for name in queue.no_result})
    if thrown:
        return slow(
            "rq_results",
            f"result_ttl is 0 for durable jobs: {_names(thrown)}. What a worker without the plugin ran cannot be seen, so that "
            "it is put in doubt",
            "leave result_ttl out, or give it some minutes",
        )
    return note(
        "rq_results", f"RQ keeps a result for {RESULT_TTL} s unless a job says otherwise (result_ttl); the journal, longer",
        "in a later job read durable_adapter.rq.result_of(...) rather than job.dependency.return_value()",
    )  # fmt: skip
