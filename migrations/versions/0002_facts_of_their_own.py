"""Facts that shared a column or stood in prose get columns of their own.

Revision 0002. Only adds columns that code of revision 0001 may leave out.
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
        "durable_workflow": [
            # What a suspended function waits for: a kind, and the key of a step or a timer.
            sa.Column("wait_kind", ascii_text(16)),
            sa.Column("wait_key", name(400)),
            # When a start was taken back because its message could not be sent.
            sa.Column("taken_back_at", sa.BigInteger),
            # How often a function was woken since it last recorded anything.
            sa.Column("wakes", sa.Integer, nullable=False, server_default=sa.text("0")),
        ],
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
            # Of its idempotency key: advances where the effect is known not to have happened.
            sa.Column("generation", sa.SmallInteger, nullable=False, server_default=sa.text("0")),
            # How often its message was sent, its probe asked, and its transaction lost since a person last decided.
            sa.Column("sends", sa.SmallInteger, nullable=False, server_default=sa.text("0")),
            sa.Column("probes", sa.SmallInteger, nullable=False, server_default=sa.text("0")),
            sa.Column("losses", sa.SmallInteger, nullable=False, server_default=sa.text("0")),
        ],
        "durable_worker": [
            sa.Column("namespace", name(64)),
            # Microseconds between two of its beats.
            sa.Column("beat_every", sa.BigInteger),
        ],
    }


def upgrade() -> None:
    """Adds the columns."""
    for table, added in columns().items():
        for column in added:
            add_column(table, column)


def downgrade() -> None:
    """Drops the columns, with what they say."""
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
