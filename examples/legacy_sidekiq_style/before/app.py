"""The Celery app: `celery -A legacy_sidekiq_style.before.app worker`."""

from legacy_sidekiq_style.app import create_app

app = create_app("legacy_sidekiq_style.before")
