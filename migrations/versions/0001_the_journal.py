"""The journal's tables: workflow, step, worker and event.

Revision 0001, the first. Frozen: it says again what `journal/schema.py` said then, and a test holds the two together
until a second revision is written.
"""

from typing import Any

import sqlalchemy as sa
from alembic import context, op
from sqlalchemy.dialects import mysql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

MYSQL = ("mysql", "mariadb")
#: Byte by byte, trailing spaces included. MariaDB and MySQL each read the comment that is meant for them.
EXACT = "/*M! utf8mb4_nopad_bin */ /*!80017 utf8mb4_0900_bin */"
TABLE_OPTIONS = {
    f"{dialect}_{option}": value
    for dialect in MYSQL
    for option, value in (("engine", "InnoDB"), ("charset", "utf8mb4"), ("collate", EXACT))
}


def ascii_text(length: int) -> sa.types.TypeEngine[str]:
    """Ids, tokens, statuses: compared byte by byte."""
    return sa.String(length).with_variant(mysql.VARCHAR(length, charset="ascii", collation="ascii_bin"), *MYSQL)


def name(length: int) -> sa.types.TypeEngine[str]:
    """What users choose: compared byte by byte."""
    return sa.String(length).with_variant(sa.String(length, collation="C"), "postgresql")


def blob() -> sa.types.TypeEngine[bytes]:
    """Values and messages."""
    return sa.LargeBinary().with_variant(mysql.LONGBLOB(), *MYSQL)


def text() -> sa.types.TypeEngine[str]:
    """Words without a bound."""
    return sa.Text().with_variant(mysql.LONGTEXT(), *MYSQL)


def upgrade() -> None:
    """Makes the tables and their indexes."""
    create_table(
        "durable_workflow",
        sa.Column("ref", ascii_text(32), nullable=False),
        sa.Column("namespace", name(64), nullable=False),
        sa.Column("id", name(200), nullable=False),
        sa.Column("run", sa.Integer, nullable=False),
        sa.Column("name", name(255), nullable=False),
        sa.Column("shape", ascii_text(16), nullable=False),
        sa.Column("engine", ascii_text(16), nullable=False),
        sa.Column("mode", ascii_text(16), nullable=False),
        sa.Column("status", ascii_text(24), nullable=False),
        sa.Column("declared", sa.Boolean, nullable=False),
        sa.Column("fingerprint", ascii_text(64)),
        sa.Column("arguments", blob()),
        sa.Column("arguments_codec", ascii_text(32)),
        sa.Column("plan", blob()),
        sa.Column("outcome", blob()),
        sa.Column("outcome_codec", ascii_text(32)),
        sa.Column("error", blob()),
        sa.Column("parent", ascii_text(32)),
        sa.Column("code_version", name(64)),
        sa.Column("attributes", text()),
        sa.Column("amount", name(64)),
        sa.Column("waiting_for", name(406)),
        sa.Column("wake_at", sa.BigInteger),
        sa.Column("next_check_at", sa.BigInteger),
        sa.Column("attention", ascii_text(24)),
        sa.Column("resends", sa.SmallInteger, nullable=False),
        sa.Column("open_steps", sa.Integer, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("ended_at", sa.BigInteger),
        sa.Column("pruned_at", sa.BigInteger),
        sa.PrimaryKeyConstraint("ref", name="pk_durable_workflow"),
        sa.UniqueConstraint("namespace", "id", "run", name="uq_durable_workflow_namespace_id_run"),
    )
    create_index("ix_durable_workflow_next_check", "durable_workflow", "next_check_at", where="next_check_at IS NOT NULL")
    create_index("ix_durable_workflow_attention", "durable_workflow", "attention", where="attention IS NOT NULL")
    create_index("ix_durable_workflow_created", "durable_workflow", "created_at")
    create_index("ix_durable_workflow_ended", "durable_workflow", "pruned_at", "ended_at", where="ended_at IS NOT NULL")

    create_table(
        "durable_step",
        sa.Column("ref", ascii_text(32), nullable=False),
        sa.Column("key", name(400), nullable=False),
        sa.Column("position", sa.Integer, nullable=False),
        sa.Column("name", name(255), nullable=False),
        sa.Column("engine", ascii_text(16)),
        sa.Column("kind", ascii_text(16), nullable=False),
        sa.Column("status", ascii_text(16), nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("takeovers", sa.SmallInteger, nullable=False),
        sa.Column("token", ascii_text(16)),
        sa.Column("worker", ascii_text(32)),
        sa.Column("queue", name(255)),
        sa.Column("task_id", name(155)),
        sa.Column("arguments", blob()),
        sa.Column("arguments_codec", ascii_text(32)),
        sa.Column("fingerprint", ascii_text(64)),
        sa.Column("outcome", blob()),
        sa.Column("outcome_codec", ascii_text(32)),
        sa.Column("error", blob()),
        sa.Column("effect", ascii_text(16)),
        sa.Column("safety", ascii_text(16), nullable=False),
        sa.Column("options", text()),
        sa.Column("compensation", name(255)),
        sa.Column("pivot", sa.Boolean, nullable=False),
        sa.Column("target", name(400)),
        sa.Column("message", blob()),
        sa.Column("reference", name(255)),
        sa.Column("next_check_at", sa.BigInteger),
        sa.Column("over_at", sa.BigInteger),
        sa.Column("deadline_at", sa.BigInteger),
        sa.Column("heartbeat_at", sa.BigInteger),
        sa.Column("details", text()),
        sa.Column("doubt", text()),
        sa.Column("doubt_at", sa.BigInteger),
        sa.Column("evidence", text()),
        sa.Column("verdict", text()),
        sa.Column("attention", ascii_text(24)),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("sent_at", sa.BigInteger),
        sa.Column("begun_at", sa.BigInteger),
        sa.Column("ended_at", sa.BigInteger),
        sa.PrimaryKeyConstraint("ref", "key", name="pk_durable_step"),
    )
    create_index("ix_durable_step_next_check", "durable_step", "next_check_at", where="next_check_at IS NOT NULL")
    create_index(
        "ix_durable_step_unsettled",
        "durable_step",
        "status",
        "worker",
        where="status IN ('begun', 'in_doubt', 'held')",
    )
    create_index("ix_durable_step_attention", "durable_step", "attention", where="attention IS NOT NULL")

    create_table(
        "durable_worker",
        sa.Column("id", ascii_text(32), nullable=False),
        sa.Column("role", ascii_text(16), nullable=False),
        sa.Column("parent", ascii_text(32)),
        sa.Column("host", name(255), nullable=False),
        sa.Column("pid", sa.Integer, nullable=False),
        sa.Column("engine", ascii_text(16), nullable=False),
        sa.Column("queues", text(), nullable=False),
        sa.Column("code_version", name(64)),
        sa.Column("beats", sa.Integer, nullable=False),
        sa.Column("beat_at", sa.BigInteger, nullable=False),
        sa.Column("previous_beat_at", sa.BigInteger, nullable=False),
        sa.Column("running", text(), nullable=False),
        sa.Column("previously_running", text(), nullable=False),
        sa.Column("started_at", sa.BigInteger, nullable=False),
        sa.Column("stopped_at", sa.BigInteger),
        sa.Column("dead_at", sa.BigInteger),
        sa.Column("death", text()),
        sa.Column("alive", sa.SmallInteger),
        sa.PrimaryKeyConstraint("id", name="pk_durable_worker"),
    )
    create_index("ix_durable_worker_alive", "durable_worker", "alive", "beat_at", where="alive IS NOT NULL")

    create_table(
        "durable_event",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), nullable=False, autoincrement=True),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("kind", ascii_text(32), nullable=False),
        sa.Column("ref", ascii_text(32)),
        sa.Column("key", name(400)),
        sa.Column("token", ascii_text(16)),
        sa.Column("who", name(255)),
        sa.Column("why", text()),
        sa.Column("detail", text()),
        sa.PrimaryKeyConstraint("id", name="pk_durable_event"),
    )
    create_index("ix_durable_event_ref", "durable_event", "ref", "id")
    create_index("ix_durable_event_kind", "durable_event", "kind", "at")


def downgrade() -> None:
    """Drops the tables, with everything that the journal knows."""
    for table in ("durable_event", "durable_worker", "durable_step", "durable_workflow"):
        op.drop_table(table)


def create_table(table: str, *parts: Any) -> None:
    """Makes a table, unless a migration that was cut short has made it (MySQL commits every statement by itself)."""
    if context.is_offline_mode() or not sa.inspect(op.get_bind()).has_table(table):
        op.create_table(table, *parts, **TABLE_OPTIONS)


def create_index(index: str, table: str, *columns: str, where: str | None = None) -> None:
    """Makes an index, unless it is there: partial where the database can."""
    if not context.is_offline_mode():
        there = {found["name"] for found in sa.inspect(op.get_bind()).get_indexes(table)}
        if index in there:
            return
    condition = None if where is None else sa.text(where)
    op.create_index(index, table, list(columns), postgresql_where=condition, sqlite_where=condition)
