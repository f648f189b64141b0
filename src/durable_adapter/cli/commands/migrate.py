"""`migrate`: bring the journal's tables to the revision that this code needs. Alembic is loaded only to do it."""

from __future__ import annotations

import io

import click

from ..session import CLEAN, FINDINGS, Session, durable_command

EXAMPLES = (
    ("Celery: the journal that the app was installed with", "durable-adapter -A shop migrate"),
    ("RQ: the journal that install() was given in that module", "durable-adapter --import shop.jobs migrate"),
    ("In a deploy: whether anything is missing", "durable-adapter --journal postgresql+psycopg://shop@db/shop migrate --check"),
)


@durable_command("migrate", installed=False, examples=EXAMPLES)
@click.option("--check", is_flag=True, help="Only say what is to be applied; ends with 1 where there is something.")
@click.option("--sql", is_flag=True, help="Write the statements, and apply nothing.")
def command(session: Session, check: bool, sql: bool) -> int:
    """Bring the journal's tables up to date: once, however many deploys try at the same time.

    Code of one version runs on its own revision and on the next one, so migrate before the new code is rolled out.
    """
    from ...journal import migrations
    from ...journal.schema import REVISION

    if check and sql:
        raise click.UsageError("--check and --sql exclude each other")
    journal, out = session.journal, session.out
    if check:
        missing = migrations.check(journal)
        if out.as_json:
            out.json({"revision": journal.revision(), "needed": REVISION, "missing": missing, "applied": []})
        if (file := journal.db.missing_file) is not None:
            out.say(f"There is no file {file.absolute()}: `migrate` makes it.")
        out.say(f"To be applied: {', '.join(missing)}." if missing else f"The journal is at revision {REVISION}: up to date.")
        return FINDINGS if missing else CLEAN
    if sql:
        written = io.StringIO()
        missing = migrations.migrate(journal, sql=True, out=written)
        if out.as_json:
            out.json({"needed": REVISION, "missing": missing, "applied": [], "sql": written.getvalue()})
        else:
            click.echo(written.getvalue(), nl=False)
        return CLEAN
    applied = migrations.migrate(journal)
    if out.as_json:
        out.json({"revision": journal.revision(), "needed": REVISION, "missing": [], "applied": applied})
    out.say(
        f"Applied {', '.join(applied)} to {journal.db.safe_url}." if applied else f"Nothing to do: it is at revision {REVISION}."
    )
    return CLEAN
