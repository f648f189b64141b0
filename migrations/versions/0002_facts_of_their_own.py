"""Facts that shared a column or stood in prose get columns of their own.

Revision 0002. Only adds columns that code of revision 0001 may leave out, and an index.
"""

from typing import Any

import sqlalchemy as sa
from alembic import context, op
from sqlalchemy.dialects import mysql

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

MYSQL = ("mysql", "mariadb")


def ascii_text(length: int) -> sa.types.TypeEngine[str]:
    """Ids, tokens, statuses: compared byte by byte."""
    return sa.String(length).with_variant(mysql.VARCHAR(length, charset="ascii", collation="ascii_bin"), *MYSQL)


def name(length: int) -> sa.types.TypeEngine[str]:
    """What users choose: compared byte by byte."""
    return sa.String(length).with_variant(sa.String(length, collation="C"), "postgresql")


def text() -> sa.types.TypeEngine[str]:
    """Words without a bound."""
    return sa.Text().with_variant(mysql.LONGTEXT(), *MYSQL)


def columns() -> dict[str, list[sa.Column[Any]]]:
    """The new columns, by table."""
    return {
        "durable_step": [
            # The canvas members that it comes after, as JSON, and how many of them are still open.
            sa.Column("after", text()),
            sa.Column("pending", sa.Integer),
            # Whether the run ends with it.
            sa.Column("completes_run", sa.Boolean),
            # Why it is in doubt or held: a value of an enumeration.
            sa.Column("cause", ascii_text(24)),
            # Since when it may have happened twice, until a person acknowledges it.
            sa.Column("twice_at", sa.BigInteger),
            # When its idempotency key was first used: from then on its window runs.
            sa.Column("first_begun_at", sa.BigInteger),
            # Of its idempotency key: advances where the effect is known not to have happened.
            sa.Column("generation", sa.Integer, nullable=False, server_default=sa.text("0")),
            # How often its message was sent, and its transaction lost, since a person last decided.
            sa.Column("sends", sa.SmallInteger, nullable=False, server_default=sa.text("0")),
            sa.Column("losses", sa.SmallInteger, nullable=False, server_default=sa.text("0")),
        ],
        "durable_worker": [
            sa.Column("namespace", name(64)),
            # Microseconds between two of its beats.
            sa.Column("beat_every", sa.BigInteger),
            # What the host's own clock said at its last beat, in microseconds.
            sa.Column("clock_at", sa.BigInteger),
        ],
    }


def upgrade() -> None:
    """Adds the columns, and the index over what may have happened twice."""
    for table, added in columns().items():
        for column in added:
            add_column(table, column)
    create_index("ix_durable_step_twice", "durable_step", "twice_at", where="twice_at IS NOT NULL")
    # Nobody has acknowledged these yet.
    op.execute(
        "UPDATE durable_step SET twice_at = COALESCE(ended_at, doubt_at, created_at), attention = NULL"
        " WHERE attention = 'twice' AND twice_at IS NULL"
    )
    # A function that was held after a restore may lack rows of its calls.
    op.execute(
        "UPDATE durable_step SET cause = 'lost_commits' WHERE status = 'held' AND kind = 'function' AND cause IS NULL"
        " AND doubt LIKE 'the journal may have lost commits%'"
    )


def downgrade() -> None:
    """Drops the columns, with what they say."""
    op.drop_index("ix_durable_step_twice", table_name="durable_step")
    for table, added in columns().items():
        for column in added:
            op.drop_column(table, column.name)


def add_column(table: str, column: sa.Column[Any]) -> None:
    """Adds a column, unless a migration that was cut short has added it (MySQL commits every statement by itself)."""
    if not context.is_offline_mode():
        there = {found["name"] for found in sa.inspect(op.get_bind()).get_columns(table)}
        if column.name in there:
            return
    op.add_column(table, column)


def create_index(index: str, table: str, *columns: str, where: str) -> None:
    """Makes an index, unless it is there: partial where the database can."""
    if not context.is_offline_mode():
        there = {found["name"] for found in sa.inspect(op.get_bind()).get_indexes(table)}
        if index in there:
            return
    condition = sa.text(where)
    op.create_index(index, table, list(columns), postgresql_where=condition, sqlite_where=condition)
