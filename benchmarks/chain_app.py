"""The Celery application under test: a chain of three no-op steps, with the variant given by BENCH_VARIANT.

late        plain Celery with late acknowledgement and prefetch 1
sketch2     the hand-written journal: one claim (insert or read, in one statement) and one completion, two commits a step
protected   durable-adapter, nothing declared
idempotent  durable-adapter, idempotent=True
"""

from __future__ import annotations

import json
import os
import time
from typing import Any

from celery import Celery, Task
from celery.signals import worker_process_init

VARIANT = os.environ.get("BENCH_VARIANT", "late")
REDIS = os.environ.get("BENCH_REDIS", "redis://127.0.0.1:6379/11")
JOURNAL = os.environ.get("BENCH_JOURNAL", "")
PAYLOAD = json.dumps({"ok": True, "charge_id": "ch_" + "x" * 24, "note": "y" * 110})

app = Celery("bench", broker=REDIS, backend=REDIS)
app.conf.update(
    task_acks_late=True,
    worker_prefetch_multiplier=1,
    result_expires=600,
    task_default_queue=f"bench_{VARIANT}",
    worker_hijack_root_logger=False,
    broker_connection_retry_on_startup=True,
    broker_transport_options={"visibility_timeout": 3600},
)

CLAIM = (
    "INSERT INTO sketch (run, step, name, state) VALUES (%s, %s, %s, 0) ON CONFLICT (run, step) "
    "DO UPDATE SET state = sketch.state RETURNING state, result"
)
DONE = "UPDATE sketch SET state = 1, result = %s::jsonb, done_at = now() WHERE run = %s AND step = %s AND state = 0"
TABLE = (
    "CREATE TABLE IF NOT EXISTS sketch (run uuid NOT NULL, step int NOT NULL, name text NOT NULL, state smallint NOT NULL "
    "DEFAULT 0, result jsonb, created timestamptz NOT NULL DEFAULT now(), done_at timestamptz, PRIMARY KEY (run, step))"
)
engine: Any = None


@worker_process_init.connect
def connect(**_: Any) -> None:
    """Opens the sketch's connection in each pool process."""
    global engine  # noqa: PLW0603 - the sketch keeps one engine a process, as such code does
    if VARIANT == "sketch2":
        import sqlalchemy

        engine = sqlalchemy.create_engine(JOURNAL, isolation_level="AUTOCOMMIT")
        engine.connect().close()


def statement(sql: str, parameters: tuple[Any, ...]) -> Any:
    """One statement of the sketch: a checkout and an autocommit."""
    with engine.connect() as connection:
        return connection.exec_driver_sql(sql, parameters)


class Sketched(Task):
    """The journal that a careful team would write by hand in an afternoon."""

    def __call__(self, stamps: list[float], last: bool = False) -> list[float]:
        run, number, name = self.request.root_id, len(stamps), self.name
        statement(CLAIM, (run, number, name)).fetchone()
        out = self.run(stamps, last)
        statement(DONE, (PAYLOAD, run, number))
        return out


@app.task(name="bench.step", **({"base": Sketched} if VARIANT == "sketch2" else {}))
def step(stamps: list[float], last: bool = False) -> list[float]:
    """Does nothing but say when."""
    return [*stamps, time.time()]


if VARIANT in ("protected", "idempotent"):
    import durable_adapter as durable
    from durable_adapter import celery as durable_celery

    durable.step(idempotent=VARIANT == "idempotent")(step)
    durable_celery.install(app, journal=JOURNAL)
