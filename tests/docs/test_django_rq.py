"""The project of `django-rq.md`, with a real worker: the trap, and the cure. Only where Django and django-rq are installed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from durable_adapter.journal import Journal
from durable_adapter.journal.migrations import migrate
from tests.docs.pages import DOCS, blocks

PAGE = DOCS / "how-to" / "django-rq.md"
pytestmark = pytest.mark.skipif(
    not all(find_spec(name) for name in ("django", "django_rq")), reason="Django and django-rq are not installed"
)

SETTINGS = """
INSTALLED_APPS = ["django.contrib.contenttypes", "django.contrib.auth"]
SECRET_KEY = "not one"
USE_TZ = True
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "django.sqlite3", "OPTIONS": {"timeout": 20}}}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
"""
MODELS = """
from django.db import models

class Order(models.Model):
    reference = models.CharField(max_length=40)
"""
#: The jobs that the page names and does not show.
JOBS = """
from pathlib import Path

import durable_adapter.rq
from durable_adapter.rq import result_of
from orders.models import Order

def book(line):
    with Path("bank.txt").open("a") as bank:
        bank.write(line + "\\n")

@durable.step(idempotent=True)
def charge(order_id):
    book(f"charge {Order.objects.get(pk=order_id).reference}")
    return "ch"

@durable.step
def ship(order_id):
    book(f"ship {order_id} for {result_of('charge')}")

@durable.step
def mail(order_id):
    book(f"mail {order_id}")
"""


class Project:
    """A project as the page has it."""

    def __init__(self, folder: Path, redis: str) -> None:
        self.folder, self.redis = folder, redis
        self.journal = f"sqlite:///{folder}/journal.sqlite3"
        migrate(Journal(self.journal))
        (folder / "orders").mkdir()
        (folder / "orders" / "__init__.py").touch()
        self.write("settings.py", SETTINGS + self.listing("settings.py"))
        self.write("orders/apps.py", self.listing("orders/apps.py"))
        self.write("orders/models.py", MODELS)
        self.write("orders/jobs.py", self.listing("orders/jobs.py") + JOBS)
        self.write("orders/views.py", "from orders.jobs import *\n" + self.listing("orders/views.py"))
        self.write("orders/worker.py", self.listing("orders/worker.py"))
        wrong = "".join(f"    {line}\n" for line in self.listing("wrong").splitlines())
        self.write("orders/wrong.py", f"from orders.views import *\n\ndef buy():\n    queue = django_rq.get_queue()\n{wrong}")
        self.run("-m", "django", "migrate", "--run-syncdb", "-v", "0")

    def listing(self, title: str) -> str:
        (found,) = [block.text for block in blocks(PAGE) if block.title == title]
        found = found.replace('"redis://localhost:6379/0"', repr(self.redis))
        return re.sub(r'"postgresql\+psycopg://[^"]*"', repr(self.journal), found)

    def write(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text)

    def run(self, *arguments: str, fails: bool = False) -> str:
        environment = {**os.environ, "PYTHONPATH": str(self.folder), "DJANGO_SETTINGS_MODULE": "settings"}
        command = [sys.executable, *arguments]
        done = subprocess.run(command, cwd=self.folder, env=environment, capture_output=True, text=True, timeout=60)
        assert bool(done.returncode) == fails, done.stderr
        return done.stdout + done.stderr

    def python(self, text: str, *, fails: bool = False) -> str:
        return self.run("-c", f"import django; django.setup()\n{text}", fails=fails)

    def work(self, *arguments: str) -> list[str]:
        """Runs what is queued in `manage.py rqworker`, and returns what it did to the world."""
        self.run("-m", "django", "rqworker", "--burst", *arguments)
        book = self.folder / "bank.txt"
        lines = book.read_text().splitlines() if book.exists() else []
        book.unlink(missing_ok=True)
        return lines

    def runs(self) -> int:
        """How many runs the journal has."""
        return len(Journal(self.journal).reads.newest_refs("default", limit=100))


@pytest.fixture
def project(tmp_path: Path, redis_url: str) -> Project:
    return Project(tmp_path, redis_url)


def test_a_chain_that_is_sent_after_the_commit_is_one_run(project: Project) -> None:
    assert project.python("from orders.views import *; buy('a')") == ""
    assert project.work() == ["charge a", "ship 1 for ch", "mail 1"]
    assert project.runs() == 1


def test_a_chain_inside_of_a_transaction_falls_apart_and_the_log_says_so(project: Project) -> None:
    said = project.python("from orders.wrong import *; buy()")
    for name in ("ship", "mail"):
        assert f"orders.jobs.{name} was enqueued with depends_on=None, in a queue that puts jobs off (DjangoRQ)" in said
    assert project.runs() == 3
    assert sorted(project.work()) == ["charge a", "mail 1"]


def test_a_start_inside_of_a_transaction_is_refused_and_nothing_is_left_of_it(project: Project) -> None:
    text = "from orders.views import *\nwith transaction.atomic():\n    send(Order.objects.create(reference='a'))"
    assert "UnsupportedCanvas" in project.python(text, fails=True)
    assert project.runs() == 0
    assert project.work() == []
    assert project.python("from orders.models import *; print(Order.objects.count())") == "0\n"


def test_a_worker_that_spawns_sets_django_up_by_a_class_of_its_own(project: Project) -> None:
    project.python("from orders.views import *; buy('a')")
    assert project.work("--worker-class", "orders.worker.Worker") == ["charge a", "ship 1 for ch", "mail 1"]
