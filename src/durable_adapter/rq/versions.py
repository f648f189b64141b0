"""Which RQ this is, and what an older one lacks: whatever depends on the version asks here, by the name of the difference.

Imports nothing of RQ but its number, so that it can be asked before anything is imported that an older one does not have.
"""

from __future__ import annotations

from typing import Any

from rq.version import VERSION as VERSION

from ..errors import InstallConflict

Version = tuple[int, int]


def numbers_of(version: str) -> Version:
    """A version as it is compared; what is no number, such as a build of somebody's own, is newer than any."""
    parts = version.split(".")[:2]
    return (int(parts[0]), int(parts[1])) if len(parts) == 2 and all(part.isdigit() for part in parts) else (999, 0)


#: The RQ of this process.
FOUND: Version = numbers_of(VERSION)

#: The oldest RQ whose inside is known here, and on which the tests run.
OLDEST: Version = (1, 16)
#: The registry of started jobs lists executions, `job:execution`. Before, it lists ids, and those may contain a colon.
EXECUTIONS: Version = (2, 0)
#: `rq.group`.
GROUPS: Version = (2, 0)
#: A job that returns a `Retry` gives its worker back (rq#2159): RQ's only means to wait. Before, that is a result like any.
RETURNED_RETRY: Version = (2, 1)
#: `rq.SpawnWorker`.
SPAWN_WORKER: Version = (2, 2)
#: Times that are read from Redis say that they are UTC. In 2.0 and 2.1 those that are taken from the clock do already: a
#: worker ends with a TypeError when the horse of a job is killed that had ended before.
AWARE_TIMES: Version = (2, 2)
#: `Job.number_of_retries` counts each returned `Retry`. Before, it leaves out those with an interval: all that we return.
COUNTED_RETRY: Version = (2, 8)
#: `rq.registry.ReadyJobRegistry`, in which dependents stand between their parent's success and their queue.
READY_REGISTRY: Version = (3, 0)
#: The horses of `rq.SpawnWorker` work with their worker's own class.
SPAWN_OWN_CLASS: Version = (3, 0)


def since(version: Version) -> bool:
    """Whether this process's RQ is of that version or newer."""
    return version <= FOUND


def groups() -> tuple[type[Any], ...]:
    """`rq.group.Group`, where this RQ has it."""
    if not since(GROUPS):
        return ()
    from rq.group import Group

    return (Group,)


def named(version: Version) -> str:
    """A version as people write it."""
    return ".".join(map(str, version))


def require_rq() -> None:
    """Refuses an RQ that is too old.

    Raises:
        InstallConflict: it is older than `OLDEST`.
    """
    if not since(OLDEST):
        raise InstallConflict(f"durable-adapter needs RQ {named(OLDEST)} or newer; this is {VERSION}")


def require_spawn_worker() -> None:
    """Refuses to make a `SpawnWorker` of an RQ that has none.

    Raises:
        InstallConflict: it is older than `SPAWN_WORKER`.
    """
    if not since(SPAWN_WORKER):
        raise InstallConflict(
            f"durable_adapter.rq.SpawnWorker needs the rq.SpawnWorker of RQ {named(SPAWN_WORKER)} or newer; this is {VERSION}. "
            "Start workers with -w durable_adapter.rq.Worker or -w durable_adapter.rq.SimpleWorker, or upgrade RQ"
        )


def cannot_suspend() -> str | None:
    """Why no workflow function can wait on this RQ, and what to do about it; None where it can."""
    if since(RETURNED_RETRY):
        return None
    return (
        f"RQ {VERSION} has no means by which a job gives its worker back until then: that came with RQ {named(RETURNED_RETRY)}. "
        f"Upgrade RQ in the workers (pip install 'rq>={named(RETURNED_RETRY)}'), or do without waiting: call steps in place, "
        "or enqueue them as a chain with depends_on="
    )
