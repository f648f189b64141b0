"""The Celery app: `celery -A legacy_sidekiq_style.after.app worker`."""

import os

import durable_adapter.celery
from legacy_sidekiq_style.app import create_app

app = create_app("legacy_sidekiq_style.after")
durable_adapter.celery.install(app, journal=os.environ["SHOP_JOURNAL"])
