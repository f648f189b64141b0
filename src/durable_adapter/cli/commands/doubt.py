"""`doubt`: after a restore or a fail-over that lost commits, everything that may have gone on meanwhile is in doubt."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from ...model import SECOND, Kind, Safety
from ..exits import CLEAN
from ..locks import not_waiting
from ..options import Signed, When, changing, moment
from ..session import Session, durable_command

if TYPE_CHECKING:
    from ...journal.losses import Doubtful
    from ...model import WorkerRow

#: Processes that are named.
SHOWN = 5
#: What becomes of a step in doubt, by what it declares.
NEXT: dict[Safety, str] = {
    Safety.PROTECTED: "held for a person",
    Safety.PROBE: "its probe is asked",
    Safety.IDEMPOTENT: "runs again inside its window, else held",
}
OF_FUNCTIONS = "held until `retry`"


EXAMPLES = (
    (
        "What would be in doubt; the same for both engines",
        'durable-adapter --journal postgresql+psycopg://shop@db/shop doubt --since "2025-11-23 09:00"',
    ),
    (
        "Celery: the journal of the app",
        'durable-adapter -A shop doubt --since "2025-11-23 09:00" --by ann --why "fail-over at 09:05" --apply',
    ),
    (
        "RQ: the journal of install()",
        'durable-adapter --import shop.jobs doubt --since "2025-11-23 09:00" --by ann --why "fail-over at 09:05" --apply',
    ),
)


@durable_command("doubt", examples=EXAMPLES)
@click.option(
    "--since", type=moment, required=True, metavar="TIME",
    help="From when on commits may be lost: when the backup was made, or well before the fail-over. Earlier is the safe side.",
)  # fmt: skip
@click.option(
    "--until", type=moment, metavar="TIME",
    help="When the database was there again: what was started later is left alone. Later is the safe side.",
)  # fmt: skip
@changing
def command(session: Session, since: When, until: When | None, signed: Signed) -> int:
    """Put everything unfinished in doubt, after the journal was restored from a backup or lost commits in a fail-over.

    What looks planned may have run, and its record be lost: sent again, it would happen twice. So stop the workers, do this,
    and start them again. Steps that are safe to repeat, or can be asked about, then settle by themselves; the others are held,
    and so is every workflow function, of whose calls even the rows may be lost.

    Left alone is what has ended, what slept since before --since and sleeps on, and transactional steps, which are as true as
    the rest of their database.
    """
    journal = session.checked()
    now = journal.time()
    start, end = since.on(now), until.on(now) if until is not None else None
    _check(start, end, now)
    found = journal.doubts.would_doubt(session.namespace, start, until=end)
    alive = [w for w in journal.workers.alive() if now - w.beat_at < 2 * session.settings.stale * SECOND]
    if not session.out.as_json:
        _announce(session, found, start, now, apply=signed.apply)
        if alive and found.runs:
            _warn(session, alive)
    if signed.apply and found.runs:
        with not_waiting(journal):
            found = journal.doubts.doubt_unfinished(session.namespace, start, until=end, who=signed.who, why=signed.why)
    if session.out.as_json:
        session.out.json(_shown(session, found, start, end, applied=signed.apply, alive=len(alive)))
    elif found.runs and signed.apply:
        _print_next(session, found)
    else:
        for when, command in _of_the_missing(session):
            session.out.paragraph(when)
            if command:
                session.out.command(command, "  ")
        if found.runs:
            session.out.say(signed.UNCHANGED)
    return CLEAN


def _check(since: int, until: int | None, now: int) -> None:
    if since > now:
        raise click.BadParameter("is still to come: give the time from when on commits may be lost", param_hint="--since")
    if until is not None and until <= since:
        raise click.BadParameter("is not after --since", param_hint="--until")


def _announce(session: Session, found: Doubtful, since: int, now: int, *, apply: bool) -> None:
    from ...reconcile import words

    out = session.out
    out.say(f"Commits may be lost from {words.since(since, now)} on.")
    left = f"{words.plural(found.asleep, 'workflow')} slept all the while, and {'are' if found.asleep != 1 else 'is'} left alone."
    if not found.runs:
        out.say(f"Nothing that is unfinished can have gone on meanwhile. {left if found.asleep else ''}".rstrip())
        return
    what = f"{words.plural(found.steps, 'step')} and {words.plural(found.functions, 'workflow function')}"
    verb = "Puts" if apply else "Would put"
    out.say(f"{verb} in doubt: {what} of {words.plural(found.runs, 'workflow')}.", bold=True)
    out.table(("task", "steps", "what happens next"), [(name, str(count), then) for name, _, _, count, then in _rows(found)])
    if found.asleep:
        out.say(left)


def _rows(found: Doubtful) -> list[tuple[str, Kind, Safety, int, str]]:
    """What is in doubt, the most frequent first, with what becomes of it."""
    return [
        (name, kind, safety, count, OF_FUNCTIONS if kind.makes_calls else NEXT[safety])
        for (name, kind, safety), count in sorted(found.tasks.items(), key=lambda item: (-item[1], item[0]))
    ]


def _warn(session: Session, alive: list[WorkerRow]) -> None:
    from ...reconcile.words import process

    places = [process(worker, worker.id) for worker in alive[:SHOWN]]
    more = [f"{len(alive) - SHOWN} more"] if len(alive) > SHOWN else []
    session.out.warn(
        f"Still at work on this journal: {', '.join(places + more)}. Stop the workers first, and leave their messages in the "
        "broker: until this is applied they begin what may have happened already."
    )


def _print_next(session: Session, found: Doubtful) -> None:
    out = session.out
    out.say("Done. Next:", bold=True)
    for when, command in _next(session, found):
        out.paragraph(when, "  ")
        if command:
            out.command(command, "    ")


def _next(session: Session, found: Doubtful) -> list[tuple[str, str]]:
    """What is left to do, in order, with the command where there is one."""
    caller = session.caller
    held = next((name for name, kind, safety, *_ in _rows(found) if _is_held(kind, safety)), None)
    function = next((name for name, kind, *_ in _rows(found) if kind.makes_calls), None)
    steps = [
        ("Start the workers. Their sweepers settle what is safe to repeat, ask probes, and hold the rest.", ""),
        ("What is held, each with the commands that decide it:", caller.command("reconcile")),
    ]
    if held is not None:
        bulk = caller.command("resolve", "--task", held, "--since", "1h", "--did-not-happen")
        steps.append(
            (
                f"Look at the provider first. If no step of a task happened there, decide all of them at once, such as {held}:",
                bulk,
            )
        )
    if function is not None:
        bulk = caller.command("retry", "--task", function, "--since", "30d")
        steps.append((
            "Look at the provider first, for what functions called: a call without a record runs again. If nothing of it "
            f"happened there, let the functions run, such as {function}:", bulk,
        ))  # fmt: skip
    steps += _of_the_missing(session)
    return steps


def _of_the_missing(session: Session) -> list[tuple[str, str]]:
    """What is to be done about runs of which the journal has nothing any more."""
    return [
        (
            "The journal lacks what was started in the lost time, also what had finished, and cannot list it. List it from your "
            "own data. Look at the provider first, for each: it may have been charged, shipped and mailed.",
            "",
        ),
        (
            "Then start only what the provider does not have. A start runs from the beginning: what the provider has would "
            "happen a second time. Messages of what is missing are refused and reported:",
            session.caller.command("reconcile", "--kind", "refused_message"),
        ),
    ]


def _is_held(kind: Kind, safety: Safety) -> bool:
    return not kind.makes_calls and safety is Safety.PROTECTED


def _shown(session: Session, found: Doubtful, since: int, until: int | None, *, applied: bool, alive: int) -> dict[str, Any]:
    from ...reconcile.words import iso

    left = _next(session, found) if found.runs else _of_the_missing(session)
    return {
        "applied": applied,
        "since": iso(since),
        "until": iso(until),
        "workflows": found.runs,
        "steps": found.steps,
        "functions": found.functions,
        "asleep": found.asleep,
        "processes_alive": alive,
        "tasks": [
            {"name": name, "kind": kind.name, "safety": safety.value, "count": count, "then": then}
            for name, kind, safety, count, then in _rows(found)
        ],
        "next": [{"when": when, "command": command or None} for when, command in left],
    }
