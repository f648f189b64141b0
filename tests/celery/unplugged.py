"""The shop as a worker without the plugin has it."""

from durable_adapter.celery import uninstall
from tests.celery.shop import app

uninstall(app)

__all__ = ["app"]
