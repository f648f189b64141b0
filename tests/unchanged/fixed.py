"""Fixes what differs from run to run: ids, clock, host name and pid. Imported before Celery is."""

from __future__ import annotations

import datetime
import os
import random
import socket
import sys
import time
import uuid

NOW = datetime.datetime(2030, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)


class Ids:
    """Ids that count, from the beginning of each kind. The plugin's own are counted apart: they are in no message."""

    def __init__(self) -> None:
        self.given = self.own = 0

    def restart(self) -> None:
        self.given = 0

    def __call__(self) -> uuid.UUID:
        if str(sys._getframe(1).f_globals.get("__name__")).startswith("durable_adapter"):
            self.own += 1
            return uuid.UUID(int=self.own + (1 << 100), version=4)
        self.given += 1
        return uuid.UUID(int=self.given, version=4)


IDS = Ids()


def fix() -> None:
    """Fixes them in this process."""
    uuid.uuid4 = uuid.uuid1 = IDS
    os.getpid = lambda: 4242  # type: ignore[assignment]
    socket.gethostname = lambda: "fixed-host"
    time.time = NOW.timestamp
    random.seed(0)
    import kombu.common
    from celery import Celery

    kombu.common.generate_oid = lambda *_: str(uuid.UUID(int=7, version=4))
    Celery.now = lambda _self: NOW  # type: ignore[method-assign]
