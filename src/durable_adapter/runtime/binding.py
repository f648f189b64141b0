"""The state of an installed binding: its settings, its journal, its host, and the places that it patches.

A binding's own room adds how messages are read and sent. Nothing here knows a queue library.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

from ..errors import InstallConflict, NotInstalled
from ..journal import Journal
from ..model import Mode
from ..settings import NAMES, Settings
from .engine import INSTALLED, Engine
from .host import Host

if TYPE_CHECKING:
    from .marked import Marked
    from .shield import Shield

#: Seconds after which an unfinished run is looked at, where `resend_after` is not set and the engine can tell at once whether a
#: message exists.
LOOK_AFTER = 60.0

_MISSING = object()


@dataclass(frozen=True, slots=True)
class Patch:
    """A place that is patched, for `doctor --patches` and for reviewers.

    Attributes:
        where: what is patched.
        why: the purpose, as the end of a sentence that begins with "durable-adapter".
        guard: what protects against another version of the engine, or another library, that has changed the place.
        undo: restores what was there.
    """

    where: str
    why: str
    guard: str
    undo: Callable[[], None] = lambda: None


def replace(owner: Any, name: str, value: Any) -> Callable[[], None]:
    """Sets an attribute. Returns a function that restores it, unless other code has replaced it since."""
    before = owner.__dict__.get(name, _MISSING)
    setattr(owner, name, value)

    def undo() -> None:
        if owner.__dict__.get(name) is not value:
            return
        if before is _MISSING:
            delattr(owner, name)
        else:
            setattr(owner, name, before)

    return undo


class BaseBinding:
    """The state of one installed binding.

    Args:
        settings: as `install()` was given them.
        registry: the engine's marked tasks.
        make_engine: makes the binding as the runtime sees it.
        parent: the id that this process shares with its children; None where it has none that run steps.
        look_after: seconds after which an unfinished run is looked at, where `resend_after` is not set.
        shield: keeps the engine's own interruptions out of the journal's writes.
    """

    #: The bindings of this kind that are installed in this process.
    installed: ClassVar[list[Any]]

    def __init__(
        self,
        settings: Settings,
        registry: Marked,
        make_engine: Callable[[Any], Engine],
        *,
        parent: str | None = None,
        look_after: float | None = None,
        shield: Shield | None = None,
    ) -> None:
        self.settings = settings
        self.registry = registry
        self.engine = make_engine(self)
        self.parent = parent
        self.look_after = look_after
        self.shield = shield
        self.queues: list[str] = []
        self.patches: list[Patch] = []
        self._opened: tuple[Journal, Host] | None = None

    @property
    def journal(self) -> Journal:
        """The journal; made when it is first asked for, which opens no connection.

        Raises:
            NotInstalled: nobody named one.
            SettingError: the engine's own configuration has a setting that is not accepted.
        """
        return self._open()[0]

    @journal.setter
    def journal(self, journal: Journal) -> None:
        self._opened = journal, self.host

    @property
    def host(self) -> Host:
        """This process as the journal sees it; raises as `journal` does."""
        return self._open()[1]

    @host.setter
    def host(self, host: Host) -> None:
        self._opened = self.journal, host

    def _open(self) -> tuple[Journal, Host]:
        if self._opened is None:
            self._opened = self._made()
        return self._opened

    def _made(self) -> tuple[Journal, Host]:
        settings = self.settings
        resend_after = settings.resend_after
        if self.look_after is not None and settings.origins.get("resend_after", "default") == "default":
            resend_after = self.look_after
        journal = Journal(
            settings.url(),
            namespace=settings.namespace,
            schema=settings.schema,
            resend_after=resend_after,
            pool_size=settings.pool_size,
        )
        host = Host(
            journal,
            self.engine,
            queues=lambda: self.queues,
            parent=self.parent,
            stale=settings.stale,
            beat=settings.beat,
            code_version=settings.code_version,
        )
        host.is_off = lambda: self.is_off
        if self.shield is not None:
            host.shielded, host.exposed = self.shield.up, self.shield.down
        return journal, host

    def close(self) -> None:
        """Closes the journal. It is opened again on its next use."""
        if self._opened is not None:
            journal, host = self._opened
            host.stop()
            journal.close()
            self._opened = None

    @property
    def is_off(self) -> bool:
        """Whether new starts are left alone. Runs that began durable end durable all the same."""
        return self.settings.mode is Mode.OFF

    @property
    def is_installed(self) -> bool:
        """Whether the hooks do anything."""
        return self in self.installed

    @classmethod
    def latest(cls, missing: str) -> Self:
        """The binding of this process; *missing* says what to do where there is none.

        Raises:
            NotInstalled: `install()` was not called.
        """
        if not cls.installed:
            raise NotInstalled(missing)
        found: Self = cls.installed[-1]
        return found

    @classmethod
    def uninstall_all(cls) -> None:
        """Takes every binding of this kind out of the process."""
        for existing in list(cls.installed):
            existing.uninstall()

    def register(self) -> None:
        """Makes this one of the process's bindings."""
        self.installed.append(self)
        INSTALLED[self.engine.name] = self.engine

    def uninstall(self) -> None:
        """Restores every patched place. A hook that other code has wrapped since stays inside that wrapper, and does nothing."""
        self.installed.remove(self)
        if INSTALLED.get(self.engine.name) is self.engine:
            del INSTALLED[self.engine.name]
        for patch in reversed(self.patches):
            patch.undo()
        self.patches.clear()
        self.close()

    def refuse_others(self, settings: Settings, *, room: str, where: str, undo: str) -> None:
        """Accepts a repeated `install()` with the same settings.

        Raises:
            InstallConflict: they differ; names in what.
        """
        differing = [name for name in NAMES if getattr(self.settings, name) != getattr(settings, name)]
        if differing:
            raise InstallConflict(
                f"durable_adapter.{room}.install() was called before {where} with another {', '.join(differing)}. "
                f"Call {undo} first, or install once."
            )
