"""`explain`: the story of one workflow, for finished ones too. Values are masked unless asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from ..session import CLEAN, FINDINGS, Session, durable_command

if TYPE_CHECKING:
    from ...reconcile.story import Story
    from ...reconcile.telling import Telling


EXAMPLES = (
    ("Celery", "durable-adapter -A shop explain order-42"),
    ("RQ: also what Redis holds of each job", "durable-adapter -u redis://localhost:6379 explain order-42"),
    ("With arguments and results", "durable-adapter -A shop explain order-42 --show-values"),
)


@durable_command("explain", examples=EXAMPLES)
@click.argument("id")
@click.option("--show-values", is_flag=True, help="Show arguments and results; what a step redacts stays hidden.")
def command(session: Session, id: str, show_values: bool) -> int:
    """Tell the story of one workflow: what ran, where and when, what is in doubt and why, and what to do.

    ID is a workflow's id, a run's reference, or the id of any of its tasks or jobs. Ends with 1 where something is wrong with
    it. With -u or -c it also says what Redis holds of each job of an RQ workflow.
    """
    from ...reconcile.story import read_story
    from ...reconcile.story_json import shown
    from ...reconcile.telling import Telling
    from ...reconcile.values import Values
    from ..search import find_run

    journal = session.journal
    around = journal.around()
    found = find_run(journal, session.namespace, id)
    values = Values(show=show_values, parameters=session.values_by_name)
    story = read_story(journal, found.run, caller=session.caller, stale=session.stale, witnesses=session.witnesses, around=around)
    session.warn_of_silence()
    if session.out.as_json:
        session.out.json(shown(story, values) | {"others": found.others})
    else:
        _print(session, story, Telling(story, values))
        if found.others:
            session.out.say(f"\nThe same task id names other runs too: {', '.join(found.others)}")
    return FINDINGS if story.all_findings else CLEAN


def _print(session: Session, story: Story, telling: Telling) -> None:
    from ...reconcile.words import moment

    out = session.out
    session.warn_of(story.blockers)
    out.say(telling.title, bold=True)
    out.paragraph(telling.state, "  ", fg="red" if story.findings else None)
    for line in telling.facts:
        out.paragraph(line, "  ")
    if story.steps:
        out.say("\nSteps", bold=True)
    for number, step in enumerate(story.steps, 1):
        first, *rest = telling.step_lines(step)
        out.paragraph(first, f"  {number:>2}. ", "      ")
        for line in rest:
            out.paragraph(line, "        ")
    out.say("\nWhat happened", bold=True)
    for event in telling.moments:
        out.paragraph(event.says, f"  {moment(event.at)}  ", " " * 27)
        if event.why:
            out.paragraph(event.why, " " * 29)
    for finding in story.all_findings:
        out.say(f"\nWrong: {finding.kind.value.replace('_', ' ')}", bold=True, fg="red")
        out.paragraph(finding.certain, "  certain:  ", "            ")
        if finding.uncertain:
            out.paragraph(finding.uncertain, "  not known: ", "             ")
    out.say("\nNext", bold=True)
    if not story.remedies:
        out.say("  Nothing is to be done.")
    for remedy in story.remedies:
        out.paragraph(f"{remedy.when}:", "  ")
        out.command(remedy.command, "    ")
