"""The jobs of `migrate-one-rq-chain.md`, enqueued and worked off on a real Redis."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from durable_adapter.journal import Journal
from durable_adapter.journal.migrations import migrate
from tests.docs.pages import DOCS, ROOT, blocks
from tests.docs.test_examples import BANK

PAGE = DOCS / "how-to" / "migrate-one-rq-chain.md"
#: A module of somebody else's.
LEGACY = """
from shop import bank

def ship(order_id):
    bank.book(f"ship {order_id}")
"""
#: What somebody who has followed the page does next.
USED = """
from pathlib import Path

import shop
from durable_adapter.rq import SimpleWorker

def work():
    SimpleWorker([shop.queue], connection=shop.queue.connection).work(burst=True, logging_level="CRITICAL")
    print(Path("bank.txt").read_text() + "--")
    Path("bank.txt").unlink()

shop.place_order(1)
work()
shop.with_receipt(2)
work()
first, second = shop.place_order_once(3), shop.place_order_once(3)
assert first.id == second.id
work()
"""


def test_the_jobs_of_the_page_are_durable_as_it_says(tmp_path: Path, redis_url: str) -> None:
    journal = f"sqlite:///{tmp_path}/journal.sqlite3"
    migrate(Journal(journal))
    text = BANK + "".join(block.text for block in blocks(PAGE) if block.language == "python" and block.title is None)
    text = re.sub(r'"postgresql\+psycopg://[^"]*"', repr(journal), text).replace("Redis()", f"Redis.from_url({redis_url!r})")
    (tmp_path / "shop.py").write_text(text)
    (tmp_path / "legacy_shop.py").write_text(LEGACY)
    (tmp_path / "used.py").write_text(USED)
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"}
    done = subprocess.run([sys.executable, "used.py"], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("--\n")[:3] == [
        "charge 1\nship 1\nmail 1\n",
        "charge 2\nreceipt 2 for ch-2\n",
        "charge 3\nmail 3\n",
    ]
