"""A producer's process, as a web process is: publishes a chain of all of them, and prints what it got."""

from __future__ import annotations

import sys

from celery import chain

from tests.celery.late.app import app, early_tasks

app.loader.import_default_modules()

from tests.celery.late import tasks  # noqa: E402 - as autodiscovery does

found = (early_tasks.above_early, early_tasks.below_early, tasks.above_discovered, tasks.below_discovered)
result = chain(found[0].s(sys.argv[1]), *(task.s() for task in found[1:])).apply_async()
print(result.id, result.get(timeout=20))
