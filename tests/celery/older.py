"""The shop before one of its tasks was written, with the plugin: a worker that was not deployed yet."""

from tests.celery.shop import app, endings

app.finalize()
app.tasks.unregister(endings.noted.name)

__all__ = ["app"]
