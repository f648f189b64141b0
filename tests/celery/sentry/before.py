"""sentry-sdk first."""

from tests.celery import sentry

sentry.init()

from tests.celery.shop import app  # noqa: E402 - installs the plugin

__all__ = ["app"]
