"""Which RQ the tests run on: what an older one does not have is skipped there, with a reason that says so."""

from __future__ import annotations

import importlib.metadata

import pytest

VERSION = importlib.metadata.version("rq")


def since(version: str) -> bool:
    """Whether this RQ is of that version, such as "2.8", or newer."""
    return _numbers(version) <= _numbers(VERSION)


def needs_rq(version: str, what: str) -> pytest.MarkDecorator:
    """A mark for tests of something that came with a version of RQ."""
    return pytest.mark.skipif(not since(version), reason=f"RQ {VERSION} has no {what}: that came with RQ {version}")


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:2])


#: What more than one test needs.
GROUPS = needs_rq("2.0", "groups")
RETURNED_RETRY = needs_rq("2.1", "meaning for a Retry that a job returns")
WAITING = needs_rq("2.1", "means to give a job's worker back while a workflow function waits")
SPAWNING = needs_rq("2.2", "SpawnWorker")
UNIQUE = needs_rq("2.8", "unique=True")
REPEATS = needs_rq("2.3", "Repeat")
