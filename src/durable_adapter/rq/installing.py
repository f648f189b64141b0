"""Putting the plugin into this process's RQ and taking it out again: `install()`, `uninstall()`, `installed()`.

RQ has no app: one binding serves the process, on the base `Job` class. Nothing is patched before `install()` (P9).
"""

from __future__ import annotations

import os
from typing import Any

from ..settings import Settings, load
from . import hooks
from .binding import Binding
from .engine import RQEngine
from .versions import require_rq

#: The environment variable by which a parent hands its settings to a horse that it spawns.
SPAWNED = "DURABLE_RQ_SPAWNED"


def install(journal: str | None = None, **options: Any) -> Binding:
    """Makes the marked functions of this process durable, wherever RQ sends or runs them. Call it in publishers and workers.

    Args:
        journal: SQLAlchemy URL of the journal; else from the environment, or from pyproject.toml.
        **options: any other setting by name: `namespace`, `schema`, `mode`, `stale`, `beat`, `sweep_every`,
            `resend_after`, `retention`, `pool_size`, `code_version`, `sweeper`. Times in seconds.

    Returns:
        The binding: what `doctor` and `uninstall` work with. Without arguments, the one that is installed already.

    Raises:
        NotInstalled: no journal is named anywhere.
        SettingError: a setting is unknown or has a value that is not accepted.
        InstallConflict: it was installed before with other settings, or RQ is too old.

    Example:
        >>> binding = install("sqlite:////tmp/durable-doctest-rq.db")
        >>> uninstall()
    """
    here = Binding.installed
    if here and journal is None and not options:
        return here[-1]
    settings = load({**_handed_down(), **({"journal": journal} if journal is not None else {}), **options})
    if here:
        here[-1].refuse_others(settings, room="rq", where="in this process", undo="uninstall()")
        return here[-1]
    settings.url()
    require_rq()
    binding = made(settings)
    hooks.install(binding)
    return binding


def made(settings: Settings) -> Binding:
    """A binding that can send and look, and that is hooked in nowhere."""
    return Binding(settings, RQEngine, hooks.hook_class)


#: Settings of the parent that spawned this process; read once.
_HANDED_DOWN: dict[str, Any] = {}


def _handed_down() -> dict[str, Any]:
    """Returns the settings of the parent that spawned this process, and takes them out of the environment of its children."""
    given = os.environ.pop(SPAWNED, None)
    if given:
        import json

        _HANDED_DOWN.update(json.loads(given))
    return _HANDED_DOWN


def uninstall() -> None:
    """Puts everything back that `install()` changed; nothing where it was not installed."""
    Binding.uninstall_all()


def installed() -> Binding:
    """The binding of this process.

    Raises:
        NotInstalled: `install()` was not called.
    """
    return Binding.latest(
        "durable-adapter is not installed in this process's RQ: call durable_adapter.rq.install(journal=...) before jobs "
        "are enqueued, and start workers with -w durable_adapter.rq.Worker"
    )
