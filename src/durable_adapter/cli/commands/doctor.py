"""`doctor`: what makes it slow or unsafe, each with its cure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from ...errors import DurableError, NotInstalled
from ...model import SECOND
from ...urls import safe_url
from ..checks.check import Check, Level
from ..engines import names_rq
from ..session import CLEAN, COULD_NOT_LOOK, FINDINGS, Session, durable_command

if TYPE_CHECKING:
    from ...journal import Journal

_COLOURS = {Level.OK: "green", Level.NOTE: None, Level.SLOW: "yellow", Level.UNSAFE: "red", Level.FAILED: "red"}


EXAMPLES = (
    ("Celery", "durable-adapter -A shop doctor"),
    ("RQ: with the modules in which jobs are marked", "durable-adapter -u redis://localhost:6379 --import shop.jobs doctor"),
)


@durable_command("doctor", installed=False, examples=EXAMPLES)
@click.option("--patches", is_flag=True, help="Also list every place that install() patches, and why.")
def command(session: Session, patches: bool) -> int:
    """Check the journal, its database, the workers; with -A the Celery app, with -u or -c RQ.

    Levels: ok; note, worth knowing; slow, costs time after a crash; unsafe, breaks a promise or hides a loss; failed, could
    not be looked at. Ends with 1 where something is slow or unsafe, with 2 where the journal could not be looked at.
    """
    checks, reachable = _checks(session)
    patched = _patches(session) if patches else None
    if session.out.as_json:
        session.out.json(_shown(session, checks, patched))
    else:
        _print(session, checks, patched)
    if not reachable:
        return COULD_NOT_LOOK
    return FINDINGS if any(c.level not in (Level.OK, Level.NOTE) for c in checks) else CLEAN


def _checks(session: Session) -> tuple[list[Check], bool]:
    """Everything that can be looked at, and whether the journal could."""
    from ..checks.check import failed
    from ..checks.journal import journal_checks

    checks: list[Check] = []
    journal = None
    try:
        journal = session.journal
        checks += journal_checks(journal, session.settings, _engines(session), session.caller)
    except DurableError as error:
        checks.append(failed("journal", str(error), "name the journal"))
    reachable = not any(c.level is Level.FAILED for c in checks)
    if session.app is not None:
        from ..checks.celery import app_checks

        checks += app_checks(session.app, session.binding, journal if reachable else None)
    if names_rq(session.given):
        checks += _of_rq(session, journal if reachable else None)
    return checks, reachable


def _engines(session: Session) -> list[str]:
    """The engines that this call names."""
    return [name for name, there in (("celery", session.app is not None), ("rq", names_rq(session.given))) if there]


def _of_rq(session: Session, journal: Journal | None) -> list[Check]:
    """RQ's checks. What keeps RQ from being looked at, without hiding the rest, is a check that failed."""
    from ..checks.check import failed
    from ..checks.rq import rq_checks

    try:
        rq = session.rq
    except NotInstalled as error:
        if session.settings.journal is None:
            return []  # told of already
        return [failed("rq", str(error))]
    except DurableError as error:
        return [failed("rq", str(error))]
    return list(rq_checks(rq, session.settings, journal)) if rq is not None else []


def _patches(session: Session) -> list[dict[str, str]]:
    """What is patched: of the Celery app as it is installed, of RQ as every process is that installs it."""
    if session.binding is None and not names_rq(session.given):
        raise click.UsageError("--patches lists what install() patches: name the Celery app with -A, or RQ with -u or -c")
    found = list(session.binding.patches) if session.binding is not None else []
    if session.rq is not None:
        found += session.rq.command.patches(session.rq.binding)
    return [{"where": patch.where, "why": patch.why} for patch in found]


def _settings(session: Session) -> list[dict[str, Any]]:
    from ...settings import NAMES

    found = session.settings
    rows = [
        {"name": name, "value": _safe(name, getattr(found, name)), "origin": found.origins.get(name, "default")} for name in NAMES
    ]
    if session.rq is not None:
        used = session.rq.binding.journal.resend_after / SECOND
        if used != found.resend_after:  # RQ can be asked whether a job is anywhere, so that its default is shorter
            rows.append({"name": "resend_after (RQ)", "value": used, "origin": "default"})
    return rows


def _safe(name: str, value: Any) -> Any:
    """A setting without the password in it."""
    return safe_url(value) if name == "journal" and value is not None else value


def _shown(session: Session, checks: list[Check], patched: list[dict[str, str]] | None) -> dict[str, Any]:
    shown: dict[str, Any] = {"checks": [c.shown() for c in checks], "settings": _settings(session)}
    return shown if patched is None else {**shown, "patches": patched}


def _print(session: Session, checks: list[Check], patched: list[dict[str, str]] | None) -> None:
    out = session.out
    for check in checks:
        out.paragraph(f"{check.name}: {check.found}", f"{check.level.value.upper():<8}", fg=_COLOURS[check.level])
        if check.cure:
            out.paragraph(check.cure, f"        {'cure' if check.level is not Level.NOTE else 'hint'}: ", " " * 14)
    out.say("\nSettings", bold=True)
    rows = [(s["name"], "" if s["value"] is None else str(s["value"]), s["origin"]) for s in _settings(session)]
    out.table(("name", "value", "from"), rows)
    if patched is not None:
        out.say("\nPatched", bold=True)
        for patch in patched:
            out.say(f"  {patch['where']}")
            out.paragraph(patch["why"], "      ")
