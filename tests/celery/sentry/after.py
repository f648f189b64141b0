"""Our plugin first."""

from tests.celery import sentry
from tests.celery.shop import app

sentry.init()

__all__ = ["app"]
