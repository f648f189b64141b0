"""Runs the journal's migrations for `durable_adapter.journal.migrations`, which hands over a connection or a dialect.

Not meant for the `alembic` command: the journal keeps its own version table and its own lock.
"""

from alembic import context

from durable_adapter.journal.schema import VERSION_TABLE, metadata

given = context.config.attributes

if context.is_offline_mode():
    context.configure(
        dialect_name=given["dialect_name"],
        target_metadata=metadata,
        version_table=VERSION_TABLE,
        literal_binds=True,
        # Alembic thinks that SQLite cannot roll back a change of its tables; it can.
        transactional_ddl=given["dialect_name"] in ("postgresql", "sqlite"),
    )
    with context.begin_transaction():
        for statement in given["first"]:
            context.execute(statement)
        context.run_migrations()
else:
    context.configure(connection=given["connection"], target_metadata=metadata, version_table=VERSION_TABLE)
    with context.begin_transaction():
        context.run_migrations()
