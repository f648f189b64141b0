"""The shop where a lost child loses the message that it had."""

import os

from tests.celery.shop import app

app.conf.task_acks_late = os.environ["ACKS_LATE"] == "1"
app.conf.task_reject_on_worker_lost = False

__all__ = ["app"]
