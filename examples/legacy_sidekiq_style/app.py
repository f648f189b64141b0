"""The shop's Celery settings, the same on both sides: late acknowledgement, one message at a time, broker and results
in SQLite files.

`SHOP_DIR` is where queue and results live; `SHOP_BROKER_URL` and `SHOP_RESULT_BACKEND` put them elsewhere, and
`SHOP_ACKS_LATE=0` acknowledges early, as Celery does by default.
"""

from __future__ import annotations

import os
from pathlib import Path

from celery import Celery


def create_app(package: str) -> Celery:
    """The Celery app for the jobs of *package*, configured from the environment."""
    home = Path(os.environ.get("SHOP_DIR", "shop-data")).resolve()
    home.mkdir(parents=True, exist_ok=True)
    # kombu's transport on SQLAlchemy takes a message in a transaction: none is ever read half, and none ends the worker.
    broker = os.environ.get("SHOP_BROKER_URL", f"sqla+sqlite:///{home / 'broker.sqlite3'}")
    app = Celery("shop", broker=broker, include=[f"{package}.orders", f"{package}.exchange"])
    late = os.environ.get("SHOP_ACKS_LATE", "1") != "0"
    app.conf.update(
        result_backend=os.environ.get("SHOP_RESULT_BACKEND", f"db+sqlite:///{home / 'results.sqlite3'}"),
        task_acks_late=late,
        task_reject_on_worker_lost=late,
        worker_prefetch_multiplier=1,
        # How long the pool waits for a dead child's last words before the job counts as lost (Celery's default: 10 s).
        worker_lost_wait=1.0,
        broker_connection_retry_on_startup=True,
        # That transport has no remote control.
        worker_enable_remote_control=not broker.startswith("sqla"),
    )
    return app
