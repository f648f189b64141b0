"""Putting the plugin into a Celery app and taking it out again: `install()`, `uninstall()`, `binding_of()`.

An app holds its binding in an attribute of its own. Nothing is patched before `install()` is called (P9).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from celery import VERSION, current_app, signals

from ..errors import InstallConflict, NotInstalled
from ..settings import Settings, load
from . import hooks
from .binding import Binding
from .engine import CeleryEngine

if TYPE_CHECKING:
    from celery import Celery

#: The oldest Celery whose inside is known here.
OLDEST = (5, 4)
#: The attribute of an app that holds its binding.
_ATTRIBUTE = "durable_binding"


def install(app: Celery, journal: str | None = None, **options: Any) -> Binding:
    """Makes the marked tasks of *app* durable. Call it once, where the app is configured.

    Args:
        app: the Celery app.
        journal: SQLAlchemy URL of the journal; else from the environment, `app.conf` or pyproject.toml. Where Celery has not
            read its configuration yet, it is not made to: settings that stand there count once it has.
        **options: any other setting by name: `namespace`, `schema`, `mode`, `stale`, `beat`, `sweep_every`,
            `resend_after`, `retention`, `pool_size`, `code_version`, `strict`, `sweeper`. Times in seconds.

    Returns:
        The binding: what `doctor` and `uninstall` work with.

    Raises:
        NotInstalled: no journal is named anywhere.
        SettingError: a setting is unknown or has a value that is not accepted.
        InstallConflict: it was installed before with other settings, or Celery is too old.

    Example:
        >>> from celery import Celery
        >>> app = Celery("shop", broker="memory://")
        >>> binding = install(app, journal="sqlite:////tmp/durable-doctest.db")
        >>> uninstall(app)
    """

    def read_settings() -> Settings:
        return load({"journal": journal, **options}, engine=_engine_settings(app))

    existing: Binding | None = app.__dict__.get(_ATTRIBUTE)
    if existing is not None:
        existing.refuse_others(read_settings(), room="celery", where="on this app", undo="uninstall(app)")
        return existing
    if app.configured or app._config_source is None:
        read_settings().url()
    if VERSION[:2] < OLDEST:
        raise InstallConflict(
            f"durable-adapter needs Celery {'.'.join(map(str, OLDEST))} or newer; this is {'.'.join(map(str, VERSION[:3]))}"
        )
    binding = Binding(app, read_settings, CeleryEngine, hooks.hook_task)
    hooks.install(binding)
    return binding


def hook_copy(app: Celery) -> None:
    """Celery made a pickled copy of an app, and calls this while it does: the copy is hooked as soon as it is complete."""

    def install_on_copy(**_: Any) -> None:
        carried = app.conf.get(hooks.CARRIED)
        if carried is None:
            return
        binding = install(app, **carried["settings"])
        # The parent records the deaths of its children under this name.
        binding.parent = binding.host.parent = carried["parent"]

    signals.import_modules.connect(install_on_copy, sender=app, weak=False)


def _engine_settings(app: Celery) -> Callable[[str], Any]:
    """Looks a setting up in the app's configuration; only in what is set by hand so far where Celery has not read it yet.

    To read `app.conf` would make Celery read its configuration now, and lose what the user's code sets between here and
    `config_from_object()`.
    """
    found: Callable[[str], Any] = app.conf.get if app.configured else app._preconf.get
    return found


def uninstall(app: Celery) -> None:
    """Puts everything back that `install()` changed; nothing where it was not installed."""
    existing: Binding | None = app.__dict__.get(_ATTRIBUTE)
    if existing is not None:
        existing.uninstall()


def binding_of(app: Celery | None = None) -> Binding:
    """The binding of an app, or of the current one.

    Raises:
        NotInstalled: `install()` was not called on it.
    """
    found = (app or current_app._get_current_object()).__dict__.get(_ATTRIBUTE)
    if not isinstance(found, Binding):
        raise NotInstalled(
            "durable-adapter is not installed on this Celery app: call durable_adapter.celery.install(app, journal=...) "
            "where the app is configured, before tasks are published"
        )
    return found
