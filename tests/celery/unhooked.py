"""The shop, in which somebody keeps a marked task from being hooked."""

from typing import Any

from tests.celery.shop import app, steps


class Stubborn(type(app.tasks[steps.charge.name])):  # type: ignore[misc]
    """A task whose `run` cannot be replaced."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name != "run":
            super().__setattr__(name, value)


del steps.charge.run
steps.charge.__class__ = Stubborn

__all__ = ["app"]
