"""The app: made after `early_tasks` was imported, installed before `tasks` is."""

from __future__ import annotations

import json
import os

from tests.celery.late import early_tasks  # isort: skip - before the app, on purpose

from celery import Celery

from tests.celery.shop import SETTINGS, connect

app = Celery("late")
connect(json.loads(os.environ[SETTINGS]), app)
app.autodiscover_tasks(["tests.celery.late"])

__all__ = ["app", "early_tasks"]
