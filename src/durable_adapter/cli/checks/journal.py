"""Checks of the journal's database, and of who works on it."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from ...errors import JournalAhead, JournalError, JournalUnmigrated, UnreadableRow
from ...model import SECOND, Cause, Event, takes
from ...reconcile.blockers import Queues, add_to_queues
from ...reconcile.commands import INLINE
from ...reconcile.words import plural, since, span, vocabulary
from ...recovery.absence import unswept
from .check import Check, failed, note, ok, slow, unsafe

if TYPE_CHECKING:
    from ...journal import Journal
    from ...model import WorkerRow
    from ...reconcile.commands import Caller
    from ...settings import Settings

#: The oldest versions that have what the journal's statements need.
OLDEST: dict[str, tuple[int, ...]] = {"sqlite": (3, 40), "postgresql": (12,), "mysql": (8, 0, 17), "mariadb": (10, 6)}
#: Seconds between two clocks from which on engine times (ETA, expiry) are visibly off.
SKEW = 5.0
#: The same for the clock of a worker's host: it is read before a beat is written, which may have to wait for a while.
HOST_SKEW = 30 * SECOND
#: Milliseconds for one round trip from which on every step feels it: it waits for two commits.
FAR = 20.0
#: Unfinished runs that are looked through for the engines that somebody has to sweep for, and for the queues they wait on.
RUNS = 500
#: How far back it is told that workers without the plugin ran something.
RECENT = 7 * 86_400 * SECOND
#: Share of the database's connections that living workers may need.
CROWDED = 0.8


def journal_checks(journal: Journal, settings: Settings, engines: Sequence[str], caller: Caller) -> Iterator[Check]:
    """Checks the journal's database, and first whether anybody sweeps and serves the queues.

    It stops at the first thing without which nothing else can be looked at.
    """
    where = journal.db.safe_url
    try:
        journal.check()
    except JournalUnmigrated as error:
        yield failed("revision", str(error), caller.command("migrate"))
        return
    except JournalAhead as error:
        yield failed("revision", str(error), "upgrade durable-adapter here")
        return
    except JournalError as error:
        yield failed("journal", str(error), "check the URL, the network and the database")
        return
    every = journal.workers.alive()
    living = [w for w in every if w.namespace in (None, journal.namespace)]
    now = journal.time()
    unfinished = {run.engine for run in journal.reads.unfinished(limit=RUNS)}
    for engine in sorted({*engines, *unfinished, *(w.engine for w in living if w.role == "worker")}) or ["celery"]:
        yield _sweeper(living, now, settings, journal.namespace, engine, caller)
    yield from _planned_queues(journal, living, now)
    yield ok("journal", f"{where} answers")
    yield ok("revision", f"{journal.revision()}, as this version of durable-adapter needs it")
    yield from _server(journal.reads.server())
    yield from _clock(journal)
    yield from _workers(living, now, settings)
    yield from _clocks_of_hosts(every)
    yield from _ran_elsewhere(journal, now)
    yield from _ran_plain(journal, now)
    yield from _unreadable(journal, now)
    yield from _connections(journal.reads.server(), every, settings)


def _server(server: dict[str, Any]) -> Iterator[Check]:
    dialect, version = server["dialect"], str(server["version"])
    if dialect == "mysql" and "mariadb" in version.lower():
        dialect = "mariadb"
    numbers = tuple(int(n) for n in re.findall(r"\d+", version)[:3])
    oldest = OLDEST[dialect]
    if numbers < oldest:
        wanted = ".".join(map(str, oldest))
        yield unsafe("version", f"{dialect} {version} is older than {wanted}", f"upgrade it to {wanted} or newer")
    else:
        yield ok("version", f"{dialect} {version}")
    if server.get("read_only"):
        cure = "point the journal's URL at the primary; a standby cannot be written"
        yield unsafe("read_only", "the database is read-only", cure)
    yield from _durability(server)


def _durability(server: dict[str, Any]) -> Iterator[Check]:
    """Whether the database keeps what it committed: all promises rest on that."""
    if server["dialect"] == "sqlite":
        if server["journal_mode"] != "wal":
            yield slow("durability", f"journal_mode is {server['journal_mode']}", "open the file where WAL works: a local disk")
        else:
            yield ok("durability", "WAL, every commit is synced")
        cure = "for several hosts, or many workers, use PostgreSQL"
        yield note("sqlite", "the journal is a file: one host, one writer at a time", cure)
    elif server["dialect"] == "postgresql":
        if server["fsync"] != "on":
            yield unsafe("durability", "fsync is off: a crash of the database loses or breaks commits", "set fsync = on")
        elif server["synchronous_commit"] == "off":
            yield unsafe(
                "durability",
                "synchronous_commit is off: a crash of the database loses its last commits, and steps run again",
                "ALTER ROLE ... SET synchronous_commit = on, for the role of the journal's URL",
            )
        else:
            yield ok("durability", f"synchronous_commit is {server['synchronous_commit']}")
    elif server["innodb_flush_log_at_trx_commit"] != 1:
        yield unsafe(
            "durability",
            f"innodb_flush_log_at_trx_commit is {server['innodb_flush_log_at_trx_commit']}: a crash loses the last commits",
            "set innodb_flush_log_at_trx_commit = 1",
        )
    else:
        yield ok("durability", "innodb_flush_log_at_trx_commit is 1")


def _clock(journal: Journal) -> Iterator[Check]:
    best, skew = float("inf"), 0.0
    for _ in range(5):
        before = time.time()
        there = journal.time() / SECOND
        took = time.time() - before
        if took < best:
            best, skew = took, there - (before + took / 2)
    if abs(skew) > SKEW:
        found = f"the database is {abs(skew):.1f} s {'ahead of' if skew > 0 else 'behind'} this host"
        cure = "synchronise both clocks (NTP). The journal only uses the database's; ETA and expiry use the host's"
        yield unsafe("clock", found, cure)
    else:
        yield ok("clock", f"this host and the database differ by {abs(skew):.2f} s")
    if best * 1000 > FAR:
        cure = "move the workers nearer to the database: a protected step waits for two commits"
        yield slow("latency", f"one round trip takes {best * 1000:.0f} ms", cure)
    else:
        yield ok("latency", f"one round trip takes {best * 1000:.1f} ms")


def _sweeper(living: list[WorkerRow], now: int, settings: Settings, namespace: str, engine: str, caller: Caller) -> Check:
    """Whether somebody sweeps for one engine: a sweeper leaves alone what it cannot send."""
    name = "sweeper" if engine == "celery" else f"{engine}_sweeper"
    words, sweep = vocabulary(engine), caller.sweep(engines=[engine])
    beats = [w.beat_at for w in living if w.sweeps(engine)]
    idle = unswept(living, [engine], namespace=namespace, now=now, stale=int(settings.stale * SECOND))
    if engine == INLINE:
        cure = f"start {words.worker}; `{sweep}` in it runs what is due"
        return note(name, "what runs inline goes on when its program does", cure) if idle else ok(name, f"{len(beats)} alive")
    cure = f"start {words.worker} (each has a sweeper), or run `{sweep}` as a service"
    if not beats:
        return unsafe(
            name, f"no sweeper is alive{words.sweeps_for}: timers, deaths, doubt and lost {words.message}s wait", cure
        )  # fmt: skip
    silence = (now - max(beats)) / SECOND
    if idle:
        return unsafe(name, f"the last sweeper beat {silence:.0f} s ago", cure)
    return ok(name, f"{len(beats)} alive, the last beat {silence:.0f} s ago")


def _workers(living: list[WorkerRow], now: int, settings: Settings) -> Iterator[Check]:
    workers = [w for w in living if w.role == "worker"]
    parents = [w for w in living if w.role == "sweeper" and w.queues]
    if not workers and parents:
        yield ok("workers", f"none has run a durable task yet; listening: {_at(parents)}")
        return
    if not workers:
        yield note(
            "workers", "no process that has run a durable task is alive", "start a worker; one shows up with its first task"
        )
        return
    yield ok("workers", _at(workers))
    silent = [w for w in workers if (now - w.beat_at) / SECOND > settings.stale]
    if silent:
        names = ", ".join(f"{w.host} pid {w.pid} ({(now - w.beat_at) / SECOND:.0f} s)" for w in silent[:5])
        yield slow("silent_workers", f"{len(silent)} have not beaten for longer than `stale`: {names}", "see that a sweeper runs")
    versions = sorted({w.code_version or "none" for w in workers})
    if len(versions) > 1:
        yield note("code_versions", f"workers run different code versions: {', '.join(versions)}", "finish the deploy")


def _clocks_of_hosts(living: list[WorkerRow]) -> Iterator[Check]:
    """Whether the hosts of living processes have the database's time, as each said at its last beat."""
    apart: dict[str, int] = {}
    for each in living:
        if each.clock_at is not None:
            skew = each.clock_at - each.beat_at
            apart[each.host] = max(skew, apart.get(each.host, 0), key=abs)
    wrong = {host: skew for host, skew in apart.items() if abs(skew) > HOST_SKEW}
    if wrong:
        told = (f"{host} is {span(abs(skew))} {'ahead of' if skew > 0 else 'behind'} it" for host, skew in sorted(wrong.items()))
        yield unsafe(
            "host_clocks",
            f"the clocks of hosts with living workers differ from the database's: {'; '.join(told)}",
            "synchronise these clocks (NTP). The journal only uses the database's; ETA and expiry use the host's",
        )
    elif apart:
        yield ok("host_clocks", f"{plural(len(apart), 'host')} with living workers, none more than 30 s from the database")


def _at(workers: Iterable[WorkerRow]) -> str:
    """Where processes are, and what they listen on."""
    places = Counter((w.host, ", ".join(w.queues) or "unknown queues") for w in workers)
    return "; ".join(f"{count} on {host} ({queues})" for (host, queues), count in sorted(places.items()))


def _planned_queues(journal: Journal, living: list[WorkerRow], now: int) -> Iterator[Check]:
    """Queues on which planned steps wait: workers are to be rolled out before producers."""
    waiting = _waiting(journal, now)
    if not waiting:
        return
    ever = journal.reads.ever_listened(journal.namespace)
    never = {place: steps for place, steps in waiting.items() if not any(takes(*process, *place) for process in ever)}
    if never:
        yield unsafe(
            "planned_queues",
            f"planned steps wait on queues where no worker with the plugin has ever listened: {_places(never)}. A worker without "
            "the plugin that takes them runs them unrecorded",
            "start workers with the plugin on these queues, and none without it: workers are rolled out before producers",
        )
    idle = {place: steps for place, steps in waiting.items() if place not in never and not any(w.takes(*place) for w in living)}
    if idle:
        yield slow(
            "idle_queues", f"planned steps wait on queues where no living worker with the plugin listens: {_places(idle)}",
            "start workers for them",
        )  # fmt: skip
    if not never and not idle:
        yield ok("planned_queues", f"workers with the plugin listen where planned steps wait: {_places(waiting)}")


def _ran_elsewhere(journal: Journal, now: int) -> Iterator[Check]:
    """Steps of the last days that a worker without the plugin ran: what is known of them is told with each, why it was is not."""
    events = (event for kind in (Event.VERDICT, Event.IN_DOUBT) for event in journal.events.since(kind, now - RECENT))
    places = {(e["ref"], e["key"]): e["at"] for e in events if e["detail"].get("cause") == Cause.RAN_ELSEWHERE}
    refs = sorted({ref for ref, _ in places})
    runs, steps = journal.reads.slim_runs(refs), journal.reads.slim_steps(refs)
    found = [s for ref, run in runs.items() if run.namespace == journal.namespace for s in steps[ref] if (ref, s.key) in places]
    if found:
        last = since(max(places[s.ref, s.key] for s in found), now)
        queues = ", ".join(sorted({s.queue or "unknown queues" for s in found}))
        yield unsafe(
            "ran_elsewhere",
            f"workers without the plugin ran {plural(len(found), 'durable step')} in the last 7 days, such as {found[0].name}, "
            f"on {queues}; the last one was found {last}",
            "find the workers on these queues that do not call install(), or not with this journal, and stop them",
        )


def _ran_plain(journal: Journal, now: int) -> Iterator[Check]:
    """Deliveries of the last days that began before their task was enforced, and were run plain once more."""
    events = journal.events.since(Event.RAN_PLAIN, now - RECENT)
    found = [e for e in events if e["detail"].get("namespace") == journal.namespace]
    if found:
        tasks = ", ".join(sorted({str(e["detail"].get("name")) for e in found}))
        yield note(
            "ran_plain",
            f"{plural(len(found), 'message')} of {tasks} began before that was enforced and ran plain, as before, in the last "
            f"7 days; the last one {since(found[-1]['at'], now)}",
            "lower plain_until once your longest back-off has passed",
        )


def _unreadable(journal: Journal, now: int) -> Iterator[Check]:
    """Rows of unfinished runs that this release cannot read: their runs are left alone here."""
    left: list[UnreadableRow] = []
    refs = [ref for _, ref in journal.reads.unfinished_refs(journal.namespace, now, limit=RUNS, asleep=True)]
    journal.reads.slim_runs(refs, unreadable=left)
    journal.reads.slim_steps(refs, unreadable=left)
    if left:
        yield unsafe(
            "unreadable",
            f"{plural(len(left), 'row')} of unfinished workflows cannot be read here, such as: {left[0]}",
            "upgrade durable-adapter where a newer release writes to this journal; else mend the row in the database",
        )


def _waiting(journal: Journal, now: int) -> Queues:
    """The steps that wait on queues, of the first unfinished runs."""
    reads = journal.reads
    refs = [ref for _, ref in reads.unfinished_refs(journal.namespace, now, limit=RUNS, asleep=True)]
    runs, found = reads.slim_runs(refs), Queues()
    for ref, steps in reads.slim_steps(refs).items():
        if ref in runs:
            add_to_queues(found, runs[ref], steps)
    return found


def _places(waiting: Queues) -> str:
    return "; ".join(
        f"{queue} ({plural(len(each.names), 'step')} on {engine}, such as {min(each.names)})"
        for (engine, queue), each in sorted(waiting.items())
    )


def _connections(server: dict[str, Any], living: list[WorkerRow], settings: Settings) -> Iterator[Check]:
    most = server.get("max_connections")
    if most is None:
        return
    needed = len(living) * settings.pool_size
    if needed > most * CROWDED:
        yield unsafe(
            "connections",
            f"{len(living)} living processes keep up to {needed} connections; the database allows {most}",
            "lower pool_size, raise max_connections, or put a pooler before the database",
        )
    else:
        yield ok("connections", f"up to {needed} of {most}, for {len(living)} living processes")
