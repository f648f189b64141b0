"""Apps as `celery -A` finds them, for the command line.

The command line imports this room only when an app is named, so that commands that only read the journal load no queue library.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from celery.app.utils import find_app

from ..errors import SettingError
from .binding import Binding
from .plans import original_run
from .tasks import task_named

if TYPE_CHECKING:
    from celery import Celery


def find(name: str) -> Celery:
    """The app of a name, as `celery -A` takes it: a module, a package, or `module:attribute`.

    Raises:
        SettingError: there is none; says what went wrong.
    """
    try:
        found: Any = find_app(name)
    except Exception as error:
        raise SettingError(
            f"the app {name!r} cannot be loaded: {type(error).__name__}: {error}. Give what `celery -A` takes, and call "
            "it from the same directory."
        ) from error
    if not hasattr(found, "tasks") or not hasattr(found, "conf"):
        raise SettingError(f"{name!r} is a {type(found).__name__}, not a Celery app; name it as module:attribute")
    return found


def binding(app: Celery) -> Binding | None:
    """Returns the binding of an app, with all of its task modules imported; None where it was not installed.

    Raises:
        SettingError: a task module cannot be imported.
    """
    try:
        app.loader.import_default_modules()
        app.finalize()
    except Exception as error:
        raise SettingError(f"the app's task modules cannot be imported: {type(error).__name__}: {error}") from error
    found = app.__dict__.get("durable_binding")
    if not isinstance(found, Binding):
        return None
    found.ensure_hooked()
    return found


def parameters(app: Celery) -> Callable[[str, tuple[Any, ...], dict[str, Any]], dict[str, Any] | None]:
    """Names the arguments of a task's call by parameter; None where the task is not there, or the call does not fit it."""

    def named(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any] | None:
        if task_named(app, name) is None:
            return None
        try:
            bound = inspect.signature(original_run(app, name)).bind(*args, **kwargs)
        except (TypeError, ValueError):
            return None
        return dict(bound.arguments)

    return named
