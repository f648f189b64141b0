"""What an operation costs: by the journal's own count of commits, and by the statements that it sends."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from durable_adapter.journal import Journal
from tests.journal.interleaving import statements


@dataclass
class Cost:
    """What an operation cost."""

    commits: int
    reads: int
    statements: list[str]


@pytest.fixture
def cost(journal: Journal) -> Callable[[Callable[[], Any]], Cost]:
    """`cost(operation)`: what the operation cost; both ways of counting must agree."""
    journal.time()  # it is connected

    def count(operation: Callable[[], Any]) -> Cost:
        counted = 0

        def commit() -> None:
            nonlocal counted
            counted += 1

        journal.db.on_commit = commit
        with statements(journal) as sent:
            operation()
        journal.db.on_commit = None
        commits, reads, inside = 0, 0, False
        for statement in sent:
            word = statement.split()[0]
            if word in ("BEGIN", "START"):
                inside = True
            elif word == "COMMIT":
                commits, inside = commits + 1, False
            elif word == "ROLLBACK":
                inside = False
            elif not inside and word != "SET":  # of the connection, on MySQL
                writes = word in ("INSERT", "UPDATE", "DELETE", "WITH")
                commits, reads = commits + writes, reads + (not writes)
        assert commits == counted, sent
        return Cost(commits, reads, sent)

    return count
