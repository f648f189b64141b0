"""Classes of the user's own in the place of RQ's."""

from __future__ import annotations

import json
from typing import Any

from rq import Queue
from rq.job import Job

from tests.rq_unchanged.jobs import say


class LoudJob(Job):
    """Says when it runs, and calls RQ's own way."""

    def _execute(self) -> Any:
        say("loud")
        return super()._execute()


class OwnWayJob(Job):
    """Runs its function in a way of its own."""

    def _execute(self) -> Any:
        say("own way")
        return ("own", self.func(*self.args, **self.kwargs))


class LoudQueue(Queue):
    """Makes loud jobs."""

    job_class = LoudJob


class Readable:
    """A serializer whose output can be read."""

    @staticmethod
    def dumps(value: Any) -> bytes:
        return json.dumps(value, sort_keys=True).encode()

    @staticmethod
    def loads(data: bytes) -> Any:
        return json.loads(data)
