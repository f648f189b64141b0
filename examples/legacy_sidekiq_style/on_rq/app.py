"""The shop's RQ settings, the same on both sides: one queue, and how often a job that failed is tried again.

`SHOP_REDIS_URL` says where the jobs are; `SHOP_RETRIES=0` tries nothing again, as RQ does by default.
"""

from __future__ import annotations

import os

from rq import Queue, Retry
from rq.utils import import_attribute

#: What is handed to every job that may be tried again.
RETRIES = int(os.environ.get("SHOP_RETRIES", "3"))
RETRY = Retry(max=RETRIES) if RETRIES else None


def connect() -> Queue:
    """The shop's queue; its client is made by the class that RQ's own workers use."""
    client = import_attribute(os.environ.get("RQ_CONNECTION_CLASS", "redis.Redis"))
    return Queue(connection=client.from_url(os.environ["SHOP_REDIS_URL"]))
