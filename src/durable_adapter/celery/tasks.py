"""An app's tasks, whatever kind of registry it keeps them in: Celery itself asks no more of one than that it finds a name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from celery import Celery


def task_named(app: Celery, name: str) -> Any:
    """The app's task of that name; None where it has none. Never finalizes the app."""
    tasks = app._tasks
    get = getattr(tasks, "get", None)
    if callable(get):
        return get(name)
    try:
        return tasks[name]
    except KeyError:
        return None


def all_tasks(app: Celery) -> list[tuple[str, Any]]:
    """The app's tasks with their names, as far as its registry lists them."""
    try:
        return list(app._tasks.items())
    except (AttributeError, TypeError):
        return []


def count_tasks(app: Celery) -> int:
    """Returns how many tasks the app has, as far as its registry counts them; -1 where it does not."""
    try:
        return len(app._tasks)
    except TypeError:
        return -1
