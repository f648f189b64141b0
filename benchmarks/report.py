"""What every benchmark needs: a scratch database of its own, and a result with machine, versions, commit and date."""

from __future__ import annotations

import contextlib
import datetime
import os
import platform
import subprocess
import uuid
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PAGE = Path(__file__).resolve().parents[1] / "docs" / "performance.md"


@contextlib.contextmanager
def scratch_database(server: str) -> Iterator[str]:
    """A new PostgreSQL database on *server*, dropped at the end."""
    import sqlalchemy

    url = sqlalchemy.make_url(server)
    name = f"durable_bench_{uuid.uuid4().hex[:8]}"
    engine = sqlalchemy.create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.exec_driver_sql(f'CREATE DATABASE "{name}"')
    try:
        yield url.set(database=name).render_as_string(hide_password=False)
    finally:
        with engine.connect() as connection:
            connection.exec_driver_sql(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
        engine.dispose()


def machine() -> str:
    """The machine and the versions, in one line."""
    processor = platform.machine()
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                processor = line.partition(":")[2].strip()
                break
    packages = []
    for package in ("celery", "kombu", "redis", "sqlalchemy", "psycopg", "rq"):
        with contextlib.suppress(PackageNotFoundError):
            packages.append(f"{package} {version(package)}")
    return f"{os.cpu_count()} x {processor}, {platform.system()}, Python {platform.python_version()}, {', '.join(packages)}"


def commit() -> str:
    """The commit that was measured."""
    done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """One table."""
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]
    return "\n".join(lines)


def write(name: str, title: str, command: str, tables: Sequence[tuple[Sequence[str], Sequence[Sequence[str]]]]) -> None:
    """Prints a result and puts it into the performance page, in place of the one of the same name."""
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    text = "\n\n".join(
        [f"## {title}", f"`{command}`, {today}, commit {commit()}. {machine()}.", *(markdown(h, r) for h, r in tables)]
    )
    print(text)
    begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
    page = PAGE.read_text() if PAGE.exists() else "# Performance\n"
    block = f"{begin}\n{text}\n{end}"
    if begin in page:
        before, _, rest = page.partition(begin)
        page = before + block + rest.partition(end)[2]
    else:
        page = page.rstrip() + f"\n\n{block}\n"
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(page)
