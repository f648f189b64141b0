"""Pool children that are spawned instead of forked (`worker_pool_start_method='spawn'`; the default on macOS).

Such a child is a fresh interpreter, and gets its app as a pickled copy: another object than the one on which the user's
module calls `install()`, if that module is imported there at all. So the copy carries what it needs to be hooked itself.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from celery import signals

if TYPE_CHECKING:
    from celery import Celery

    from .binding import Binding

#: How Celery finds `hook` when it makes the copy: the way in which it also finds its own support of Django.
FIXUP = f"{__name__}:hook"
#: What the copy carries, in its configuration: the settings, and who its parent is in the journal.
_CARRIED = "durable_adapter_spawned"


def carry(binding: Binding) -> None:
    """Makes the app's pickled copies hook themselves."""
    app, settings = binding.app, binding.settings
    pickled = app.__reduce_keys__

    def reduce_keys() -> dict[str, Any]:
        keys: dict[str, Any] = pickled()
        given = {name: value for name, value in asdict(settings).items() if name != "origins"}
        keys["fixups"] = {*keys["fixups"], FIXUP}
        keys["changes"] = {**keys["changes"], _CARRIED: {"settings": given, "parent": binding.parent}}
        return keys

    app.__reduce_keys__ = reduce_keys

    def undo() -> None:
        if app.__dict__.get("__reduce_keys__") is reduce_keys:
            del app.__reduce_keys__

    binding.patched(
        "app.__reduce_keys__",
        "lets pool children that are spawned, not forked, be hooked as well",
        undo,
        guard="adds to what Celery's own method returns",
    )


def hook(app: Celery) -> None:
    """Celery made the copy, and calls this while it does: it is hooked as soon as it is complete."""

    def install_on_copy(**_: Any) -> None:
        from . import install

        carried = app.conf.get(_CARRIED)
        if carried is None:
            return
        binding = install(app, **carried["settings"])
        # The parent writes the deaths of its children under this name.
        binding.parent = binding.host.parent = carried["parent"]

    signals.import_modules.connect(install_on_copy, sender=app, weak=False)
