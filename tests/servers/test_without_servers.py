"""Where no server may be used (`make unit`), tests that need one are left out, and none is looked for."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.servers.addresses import NO_SERVERS
from tests.servers.databases import Databases
from tests.servers.unavailable import Unavailable

ROOT = Path(__file__).parents[2]


def test_only_sqlite_is_to_be_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(NO_SERVERS, "1")
    with Databases(tmp_path) as databases:
        assert databases.fresh("sqlite").startswith("sqlite:///")
        for dialect in ("postgresql", "mariadb"):
            with pytest.raises(Unavailable, match=f"no {dialect}: {NO_SERVERS} is set"):
                databases.fresh(dialect)


def test_what_needs_a_server_is_not_collected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(NO_SERVERS, "1")
    files = ["tests/calls/test_turns.py", "tests/servers/test_redis.py"]
    asked = [sys.executable, "-m", "pytest", "--collect-only", "-q", *files]
    listed = subprocess.run(asked, cwd=ROOT, capture_output=True, text=True, timeout=60).stdout
    assert "[sqlite" in listed
    assert "postgresql" not in listed
    assert "mariadb" not in listed
    assert "deselected" in listed
