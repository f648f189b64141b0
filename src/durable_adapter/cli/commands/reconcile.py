"""`reconcile`: every partial execution, in plain words, with the command that mends it; mends what is safe with --apply."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import click

from ..exits import CLEAN, FINDINGS
from ..finding_groups import Group, grouped
from ..locks import not_waiting
from ..options import Signed, When, changing, moment, span
from ..session import Session, durable_command

if TYPE_CHECKING:
    from ...journal import Journal
    from ...journal.surveys import Around
    from ...reconcile import Finding, Found, Mended, Remedy


def kind(text: str) -> Any:
    """A kind of finding, with dashes or underscores.

    Raises:
        click.BadParameter: there is none of that name; says which there are.
    """
    from ...reconcile import MEANING, Trouble

    try:
        return Trouble(str(text).replace("-", "_"))
    except ValueError:
        kinds = "\n".join(f"  {each.value}: {meaning}" for each, meaning in MEANING.items())
        raise click.BadParameter(f"{text!r} is no kind of finding. There are:\n{kinds}") from None


def kinds_of_finding() -> tuple[str, list[tuple[str, str]]]:
    """Every kind, for the help."""
    from ...reconcile import MEANING

    return "Kinds of finding, the gravest first", [(trouble.value, meaning) for trouble, meaning in MEANING.items()]


EXAMPLES = (
    ("Celery", "durable-adapter -A shop reconcile"),
    ("RQ: what is due is compared with Redis", "durable-adapter -u redis://localhost:6379 reconcile"),
    ("Both engines, of one journal", "durable-adapter -A shop -u redis://localhost:6379 reconcile --since 2h"),
    ("Mend what is safe", 'durable-adapter -A shop reconcile --by ann --why "after the outage" --apply'),
)


@durable_command("reconcile", examples=EXAMPLES, listing=kinds_of_finding)
@click.option("--since", type=moment, metavar="TIME", help="Only what has been so since: 2h (ago), 2025-11-23, 2025-11-23T09:00.")
@click.option(
    "--waiting-longer-than",
    "longer_than",
    type=span,
    metavar="SPAN",
    help="Also report workflows in which nothing happened for longer: 90s, 2h, 7d.",
)
@click.option("--amount", metavar="NAME", help="The attribute that says how much money is at stake.")
@click.option("--kind", "kinds", multiple=True, type=kind, metavar="KIND", help="Only this kind; may be given several times.")
@click.option("--limit", metavar="N", type=click.IntRange(min=1), help="How many findings at the most; all if not given.")
@click.option("--all", "each", is_flag=True, help="Tell every finding; else more than three of one cause are told together.")
@changing
def command(
    session: Session,
    since: When | None,
    longer_than: int | None,
    amount: str | None,
    kinds: tuple[Any, ...],
    limit: int | None,
    each: bool,
    signed: Signed,
) -> int:
    """Find partial executions; with --apply, mend those that are safe to mend by the promises.

    Says of each what is certain, what is not, since when, what is at stake, and the exact command that mends it. Reads only
    what is unfinished or marked for people; with -u or -c it compares what is due with what Redis holds of its job. Ends with 1
    where there are findings.
    """
    from ...reconcile import look_for_trouble, mend

    journal = session.journal
    around = journal.around()
    engines, witnesses = session.engines, session.witnesses

    began = around.now

    def look(around: Around | None = None) -> Found:
        return look_for_trouble(
            journal,
            namespace=session.namespace,
            stale=session.settings.stale,
            caller=session.caller,
            kinds=kinds,
            since=since.on(began) if since is not None else None,
            longer_than=longer_than,
            amount=amount,
            knows=session.knows if engines else None,
            witnesses=witnesses,
            limit=limit,
            around=around,
            engines=list(engines),
            progress=lambda runs: session.out.progress(f"{runs:,} workflows looked at"),
        )

    found = look(around)
    mended: Mended | None = None
    if signed.apply:
        with not_waiting(journal):
            mended = mend(
                journal, found.findings, list(engines.values()), who=signed.who, why=signed.why, stale=session.settings.stale
            )
        found = look()
    session.out.progress()
    session.warn_of_silence()
    if session.out.as_json:
        session.out.json(_shown(found, mended))
    else:
        _print(session, journal, found, mended, each=each)
    return FINDINGS if found.all_findings else CLEAN


def _shown(found: Found, mended: Mended | None) -> dict[str, Any]:
    from collections import Counter

    from ...reconcile import at_stake
    from ...reconcile.blockers import unswept_shown
    from ...reconcile.words import iso

    findings, stake = found.all_findings, at_stake(found.findings)
    return {
        "at": iso(found.at),
        "looked_at": found.runs,
        "swept_at": iso(found.swept_at),
        "unswept": unswept_shown(found.unswept),
        "next_check_at": iso(found.next_check_at),
        "counts": dict(Counter(f.kind.value for f in findings)),
        "at_stake": None if stake is None else str(stake),
        "more": found.more,
        "applied": None
        if mended is None
        else {"due": mended.due, "ended": mended.ended, "swept": mended.total(), "errors": mended.errors},
        "findings": [f.shown() for f in findings],
    }


def _print(session: Session, journal: Journal, found: Found, mended: Mended | None, *, each: bool) -> None:
    from ...reconcile.words import plural, since

    out = session.out
    findings = found.all_findings
    blockers = [finding for finding in found.blockers if finding in findings]
    session.warn_of(finding for finding in found.blockers if finding not in findings)
    if mended is not None:
        _print_mended(session, mended)
    if not findings:
        looked = f"{plural(found.runs, 'unfinished workflow')} looked at"
        due = f" The next look at one is due {since(found.next_check_at, found.at)}." if found.next_check_at is not None else ""
        out.say(f"Nothing is wrong: {looked}.{due}", fg="green")
        return
    for finding in blockers:
        _print_finding(session, finding, found.at)
    for group in grouped(found.findings):
        if each or group.is_small:
            for finding in group.findings:
                _print_finding(session, finding, found.at)
        else:
            _print_group(session, group)
    _print_summary(session, found)


def _print_mended(session: Session, mended: Mended) -> None:
    from ...reconcile.words import plural

    did = ", ".join(f"{name.replace('_', ' ')} {count}" for name, count in mended.total().items() if count)
    session.out.say(f"Made due: {plural(len(mended.due), 'workflow')}. {f'Swept: {did}.' if did else ''}".rstrip())
    if mended.due and not mended.reports:
        session.out.say(
            "Nothing was sent from here: the sweepers in the workers do that. With -A, or -u for RQ, it is done at once."
        )
    for error in mended.errors:
        session.out.warn(f"A sweep could not do everything: {error}")
    session.out.say()


def _print_finding(session: Session, finding: Finding, now: int) -> None:
    from ...reconcile.words import since

    out = session.out
    step = f" · {finding.step}" if finding.step else ""
    money = f" · {finding.amount} at stake" if finding.amount is not None else ""
    what = finding.workflow or finding.name
    out.say(f"{finding.kind.value.replace('_', ' ').upper()}  {what}{step}{money}", bold=True)
    if finding.since is not None:
        out.say(f"  since      {since(finding.since, now)}")
    out.paragraph(finding.certain, "  certain    ")
    if finding.uncertain:
        out.paragraph(finding.uncertain, "  not known  ")
    _print_remedies(session, finding.remedies)


def _print_group(session: Session, group: Group) -> None:
    from ...reconcile.words import moment, plural

    out = session.out
    money = f" · {group.at_stake} at stake" if group.at_stake is not None else ""
    out.say(f"{group.title} · {len(group.findings):,} findings{money}", bold=True)
    if group.span is not None:
        out.say(f"  since      {moment(group.span[0])} to {moment(group.span[1])}")
    out.paragraph(group.examples, "  such as    ")
    out.paragraph(f"of {group.first.workflow}: {group.first.certain}", "  certain    ")
    if group.first.uncertain:
        out.paragraph(group.first.uncertain, "  not known  ")
    remedies = group.remedies(session.caller)
    _print_remedies(session, remedies)
    if any(" --task " in remedy.command for remedy in remedies):
        others = f", such as {plural(group.alike, 'finding')} in other groups" if group.alike else ""
        out.paragraph(
            f"these commands choose every step of the task that fits since then, also what is not in this group{others}: read "
            "the count in the preview before you add --apply",
            "  note       ",
        )
        out.say()


def _print_remedies(session: Session, remedies: Iterable[Remedy]) -> None:
    for remedy in remedies:
        session.out.paragraph(f"{remedy.when}:", "  mend       ")
        session.out.command(remedy.command, " " * 13)
    session.out.say()


def _print_summary(session: Session, found: Found) -> None:
    from collections import Counter

    from ...reconcile import MEANING, at_stake
    from ...reconcile.words import plural

    out = session.out
    findings = found.all_findings
    counts, refs = Counter(f.kind for f in findings), {f.ref for f in found.findings}
    out.say(plural(len(findings), "finding") + (f" in {plural(len(refs), 'workflow')}" if refs else ""), bold=True)
    for trouble, count in counts.items():
        out.say(f"  {count:>6}  {trouble.value.replace('_', ' ')}: {MEANING[trouble]}")
    stake = at_stake(found.findings)
    if stake is not None:
        out.say(f"  At stake: {stake}")
    safe = sum(f.safe for f in found.findings)
    if safe:
        out.say(f"{plural(safe, 'finding')} may be mended without asking anybody; with --apply behind it:")
        out.command(session.caller.change("reconcile"), "  ")
    if found.more:
        out.warn("There is more: the limit was reached. Raise --limit, or leave it out.")
