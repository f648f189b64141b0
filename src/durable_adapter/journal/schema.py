"""The journal's tables, and which revision of them this code needs.

There is one table for each noun: workflow, step, worker, event. Times are whole microseconds since 1970 (UTC) from the
database's clock; values are bytes with a codec tag; ids and keys compare byte by byte. Indexes cover unfinished work only, so
that finding trouble does not become slower with the history.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    SmallInteger,
    String,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
    literal_column,
    text,
)
from sqlalchemy.dialects import mysql
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeEngine

from ..codec import TAG_LENGTH
from ..model import ID_LENGTH, KEY_LENGTH, LABEL_LENGTH, NAME_LENGTH, TASK_ID_LENGTH, stored_text

#: The revisions of the migrations, oldest first. This code writes the last one.
REVISIONS = ("0001", "0002")
REVISION = REVISIONS[-1]
#: Alembic's table for the journal's revision, separate from the user's own migrations.
VERSION_TABLE = "durable_version"

NAMING = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "pk": "pk_%(table_name)s",
}

#: The tables. A schema other than the connection's default is set per engine by `schema_translate_map`.
metadata = MetaData(naming_convention=NAMING)

#: Compares byte by byte, including trailing spaces: under `utf8mb4_bin`, `item-A` and `item-A ` are one key. MariaDB and MySQL
#: have no such collation in common; each reads its own comment, also in statements that are written out.
_EXACT = "/*M! utf8mb4_nopad_bin */ /*!80017 utf8mb4_0900_bin */"
_MYSQL: dict[str, Any] = {
    f"{dialect}_{option}": value
    for dialect in ("mysql", "mariadb")
    for option, value in (("engine", "InnoDB"), ("charset", "utf8mb4"), ("collate", _EXACT))
}


def _ascii(length: int) -> String:
    """Returns the type of ASCII texts (ids, tokens, statuses), which compare byte by byte."""
    return String(length, collation=None).with_variant(
        mysql.VARCHAR(length, charset="ascii", collation="ascii_bin"), "mysql", "mariadb"
    )


def _name(length: int) -> String:
    """Returns the type of texts that users choose, which compare byte by byte (on MySQL by the table's collation)."""
    return String(length).with_variant(String(length, collation="C"), "postgresql")


def _blob() -> LargeBinary:
    return LargeBinary().with_variant(mysql.LONGBLOB(), "mysql", "mariadb")


def _text() -> Text:
    return Text().with_variant(mysql.LONGTEXT(), "mysql", "mariadb")


class Words(TypeDecorator[str]):
    """A text for people, of any length. It may quote an error: characters that a database cannot store are replaced."""

    impl = Text
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """Returns the dialect's type for long texts."""
        return _text()

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        """Replaces NULs and halves of surrogate pairs."""
        return None if value is None else stored_text(value)


workflow = Table(
    "durable_workflow",
    metadata,
    Column("ref", _ascii(32), nullable=False),
    Column("namespace", _name(LABEL_LENGTH), nullable=False),
    Column("id", _name(ID_LENGTH), nullable=False),
    Column("run", Integer, nullable=False),
    Column("name", _name(NAME_LENGTH), nullable=False),
    Column("shape", _ascii(16), nullable=False),
    Column("engine", _ascii(16), nullable=False),
    Column("mode", _ascii(16), nullable=False),
    Column("status", _ascii(24), nullable=False),
    Column("declared", Boolean, nullable=False),
    Column("fingerprint", _ascii(64)),
    Column("arguments", _blob()),
    Column("arguments_codec", _ascii(TAG_LENGTH)),
    Column("plan", _blob()),
    Column("outcome", _blob()),
    Column("outcome_codec", _ascii(TAG_LENGTH)),
    Column("error", _blob()),
    Column("parent", _ascii(32)),
    Column("code_version", _name(LABEL_LENGTH)),
    Column("attributes", _text()),
    Column("amount", _name(LABEL_LENGTH)),
    Column("waiting_for", _name(KEY_LENGTH + len("steps:"))),
    Column("wake_at", BigInteger),
    Column("next_check_at", BigInteger),
    Column("attention", _ascii(24)),
    Column("resends", SmallInteger, nullable=False),
    Column("open_steps", Integer, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("ended_at", BigInteger),
    Column("pruned_at", BigInteger),
    PrimaryKeyConstraint("ref"),
    UniqueConstraint("namespace", "id", "run"),
    **_MYSQL,
)
step = Table(
    "durable_step",
    metadata,
    Column("ref", _ascii(32), nullable=False),
    Column("key", _name(KEY_LENGTH), nullable=False),
    Column("position", Integer, nullable=False),
    Column("name", _name(NAME_LENGTH), nullable=False),
    Column("engine", _ascii(16)),
    Column("kind", _ascii(16), nullable=False),
    Column("status", _ascii(16), nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("takeovers", SmallInteger, nullable=False),
    Column("token", _ascii(16)),
    Column("worker", _ascii(32)),
    Column("queue", _name(NAME_LENGTH)),
    Column("task_id", _name(TASK_ID_LENGTH)),
    Column("arguments", _blob()),
    Column("arguments_codec", _ascii(TAG_LENGTH)),
    Column("fingerprint", _ascii(64)),
    Column("outcome", _blob()),
    Column("outcome_codec", _ascii(TAG_LENGTH)),
    Column("error", _blob()),
    Column("effect", _ascii(16)),
    Column("safety", _ascii(16), nullable=False),
    Column("options", _text()),
    Column("compensation", _name(NAME_LENGTH)),
    Column("pivot", Boolean, nullable=False),
    Column("target", _name(KEY_LENGTH)),
    Column("message", _blob()),
    Column("reference", _name(NAME_LENGTH)),
    Column("next_check_at", BigInteger),
    Column("over_at", BigInteger),
    Column("deadline_at", BigInteger),
    Column("heartbeat_at", BigInteger),
    Column("details", _text()),
    Column("doubt", Words()),
    Column("doubt_at", BigInteger),
    Column("evidence", Words()),
    Column("verdict", Words()),
    Column("attention", _ascii(24)),
    Column("created_at", BigInteger, nullable=False),
    Column("sent_at", BigInteger),
    Column("begun_at", BigInteger),
    Column("ended_at", BigInteger),
    Column("after", _text()),
    Column("pending", Integer),
    Column("completes_run", Boolean),
    Column("cause", _ascii(24)),
    Column("twice_at", BigInteger),
    Column("first_begun_at", BigInteger),
    Column("generation", Integer, nullable=False, server_default=text("0")),
    Column("sends", SmallInteger, nullable=False, server_default=text("0")),
    Column("losses", SmallInteger, nullable=False, server_default=text("0")),
    PrimaryKeyConstraint("ref", "key"),
    **_MYSQL,
)
worker = Table(
    "durable_worker",
    metadata,
    Column("id", _ascii(32), nullable=False),
    Column("role", _ascii(16), nullable=False),
    Column("parent", _ascii(32)),
    Column("host", _name(NAME_LENGTH), nullable=False),
    Column("pid", Integer, nullable=False),
    Column("engine", _ascii(16), nullable=False),
    Column("queues", _text(), nullable=False),
    Column("code_version", _name(LABEL_LENGTH)),
    Column("beats", Integer, nullable=False),
    Column("beat_at", BigInteger, nullable=False),
    Column("previous_beat_at", BigInteger, nullable=False),
    Column("running", _text(), nullable=False),
    Column("previously_running", _text(), nullable=False),
    Column("started_at", BigInteger, nullable=False),
    Column("stopped_at", BigInteger),
    Column("dead_at", BigInteger),
    Column("death", _text()),
    # 1 until the process is stopped or known to be dead, then NULL: the index covers living processes only.
    Column("alive", SmallInteger),
    Column("namespace", _name(LABEL_LENGTH)),
    # Microseconds between two of its beats, for deciding whether it is silent.
    Column("beat_every", BigInteger),
    # The host's time at its last beat, in microseconds; only `doctor` compares it.
    Column("clock_at", BigInteger),
    PrimaryKeyConstraint("id"),
    **_MYSQL,
)
event = Table(
    "durable_event",
    metadata,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), nullable=False, autoincrement=True),
    Column("at", BigInteger, nullable=False),
    Column("kind", _ascii(32), nullable=False),
    Column("ref", _ascii(32)),
    Column("key", _name(KEY_LENGTH)),
    Column("token", _ascii(16)),
    Column("who", _name(NAME_LENGTH)),
    Column("why", Words()),
    Column("detail", _text()),
    PrimaryKeyConstraint("id"),
    **_MYSQL,
)


def _open_index(name: str, *columns: Column[Any], where: str) -> Index:
    """Makes an index over unfinished work: partial if supported, else over columns that are NULL in finished rows."""
    return Index(name, *columns, postgresql_where=text(where), sqlite_where=text(where))


_open_index("ix_durable_workflow_next_check", workflow.c.next_check_at, where="next_check_at IS NOT NULL")
_open_index("ix_durable_workflow_attention", workflow.c.attention, where="attention IS NOT NULL")
_open_index("ix_durable_step_next_check", step.c.next_check_at, where="next_check_at IS NOT NULL")
_open_index("ix_durable_step_unsettled", step.c.status, step.c.worker, where="status IN ('begun', 'in_doubt', 'held')")
_open_index("ix_durable_step_attention", step.c.attention, where="attention IS NOT NULL")
_open_index("ix_durable_step_twice", step.c.twice_at, where="twice_at IS NOT NULL")
_open_index("ix_durable_worker_alive", worker.c.alive, worker.c.beat_at, where="alive IS NOT NULL")
Index("ix_durable_event_ref", event.c.ref, event.c.id)
Index("ix_durable_event_kind", event.c.kind, event.c.at)
Index("ix_durable_workflow_created", workflow.c.created_at)
_open_index(
    "ix_durable_workflow_ended",
    workflow.c.pruned_at,
    workflow.c.ended_at,
    # Without `pruned_at IS NULL`: PostgreSQL would not search by a condition of the index itself, and read all of it.
    where="ended_at IS NOT NULL",
)


def literals(statuses: Any) -> Any:
    """Returns statuses as literals, so that compiled statements can use the partial indexes."""
    return [literal_column(f"'{status.value}'") for status in sorted(statuses)]
