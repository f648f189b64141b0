"""One call's way to the journal: settings from all their places, the journal opened and checked, the engines that are named."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import update_wrapper
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, NoReturn

import click

from ..errors import DurableError, NotInstalled, NotResolvable, SettingError
from ..model import SECOND
from ..printable import shell_word, words_of
from ..urls import has_secret
from . import engines as named
from .command import Command
from .exits import CLEAN as CLEAN
from .exits import COULD_NOT_LOOK as COULD_NOT_LOOK
from .exits import FINDINGS as FINDINGS
from .exits import hidden
from .options import Invocation, common, invocation
from .output import Output

if TYPE_CHECKING:
    from ..journal import Journal
    from ..reconcile import Finding
    from ..reconcile.case import Witness
    from ..reconcile.commands import Caller
    from ..runtime.engine import Engine
    from ..settings import Settings


@dataclass
class Session:
    """What a command works with. The journal is opened when first asked for.

    Attributes:
        given: what was given on the command line.
        out: where it prints.
        settings: the settings, with where each came from.
        binding: what `install()` made of the Celery app, where an app is named and has it.
        app: that app.
        code: what of the user's was imported.
        looked_at: how many workflows a search has come past.
    """

    given: Invocation
    out: Output
    settings: Settings
    binding: Any = None
    app: Any = None
    code: named.Code = field(default_factory=named.Code)
    looked_at: int = 0
    _rq: named.RQ | None = field(default=None, repr=False)
    _journal: Journal | None = field(default=None, repr=False)

    @property
    def journal(self) -> Journal:
        """The journal, opened but not checked."""
        if self._journal is None:
            from ..journal import Journal

            self._journal = Journal(
                self.settings.url(),
                namespace=self.settings.namespace,
                schema=self.settings.schema,
                resend_after=self.settings.resend_after,
                pool_size=1,
            )
        return self._journal

    def checked(self) -> Journal:
        """The journal, reachable and at a revision that this code can use.

        Raises:
            JournalError: it is not.
        """
        self.journal.check()
        return self.journal

    @property
    def namespace(self) -> str:
        """Whose workflows."""
        return self.settings.namespace

    @property
    def rq(self) -> named.RQ | None:
        """RQ, where it is named; loaded when first asked for.

        Raises:
            DurableError: it is not installed, or what names it is not accepted.
        """
        if self._rq is None and named.names_rq(self.given):
            self._rq = named.RQ(self.given, self.code, self.settings)
            if self.binding is None:  # RQ can say what is lost, so that nobody has to wait for as long as with Celery
                self.journal.resend_after = self._rq.binding.journal.resend_after
        return self._rq

    @property
    def engines(self) -> dict[str, Engine]:
        """What can send messages, by the name of the engine; empty where none is named."""
        found: dict[str, Engine] = {}
        if self.binding is not None:
            found[self.binding.engine.name] = self.binding.engine
        if self.rq is not None:
            found[self.rq.engine.name] = self.rq.engine
        return found

    def needs_engines(self, what: str) -> dict[str, Engine]:
        """What can send messages.

        Raises:
            NotInstalled: no engine is named.
        """
        found = self.engines
        if not found:
            raise NotInstalled(
                f"{what} sends messages, and for that it needs the app: name it with -A, as `celery -A` does. For RQ, name its "
                f"Redis with -u redis://... (or {named.URL_VARIABLE}), or its settings with -c MODULE (or "
                f"{named.CONFIG_VARIABLE}), as RQ's own commands do. With both, both are served."
            )
        return found

    @property
    def witnesses(self) -> Mapping[str, Witness]:
        """The engines that can be asked about single messages."""
        return {} if self.rq is None else {self.rq.engine.name: self.rq.witness}

    def knows(self, engine: str, name: str) -> bool:
        """Whether the code of an engine has a task of a name; also where none of its code is at hand."""
        if engine == "rq" and self.rq is not None:
            return self.rq.knows(name)
        if engine == "celery" and self.binding is not None:
            return bool(self.binding.engine.knows(name))
        return True

    @property
    def stale(self) -> int:
        """Microseconds of silence after which a worker may be declared dead."""
        return int(self.settings.stale * SECOND)

    def warn_of(self, blockers: Iterable[Finding]) -> None:
        """Says what keeps everything from moving, and what to do about it."""
        for found in blockers:
            self.out.warn(found.told)

    def warn_of_silence(self) -> None:
        """Says that an engine could not be asked, where it was to be."""
        if self._rq is not None and self._rq.witness.silent is not None:
            self.out.warn(f"{self._rq.witness.silent}: what it holds was not compared with the journal.")

    @property
    def values_by_name(self) -> Any:
        """Names a task's arguments by parameter, where its code is at hand; for what steps redact by name."""
        known = []
        if self.app is not None:
            from ..celery.command import parameters

            known.append(parameters(self.app))
        if self.rq is not None:
            known.append(self.rq.parameters)

        def by_name(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any] | None:
            return next((found for each in known if (found := each(name, args, kwargs)) is not None), None)

        return by_name if known else None

    @property
    def caller(self) -> Caller:
        """How printed commands are called so that they reach the same journal."""
        from ..reconcile.commands import OPTIONS, Caller

        given = self.given
        words = [given.program]
        if given.app is not None:
            words += ["-A", shell_word(given.app)]
        if given.url is not None:
            words += ["-u", self._redis]
        for option, value in (("-c", given.config), ("-S", given.serializer)):
            if value is not None:
                words += [option, shell_word(value)]
        for option, values in (("-P", given.paths), ("--import", given.modules)):
            words += [word for value in values for word in (option, shell_word(value))]
        if given.journal is not None and not has_secret(given.journal):
            words += ["--journal", shell_word(given.journal)]
        for option in ("namespace", "schema"):
            value = getattr(given, option)
            if value is not None:
                words += [f"--{option}", shell_word(value)]
        reached = {"celery"} if self.binding is not None else set()
        if named.names_rq(given):
            reached.add("rq")
        return Caller(" ".join(words), frozenset(reached), {**OPTIONS, **self._own_options})

    @property
    def _own_options(self) -> dict[str, str]:
        """The options that name each engine here, as its own commands take them."""
        given, own = self.given, {}
        if given.app is not None:
            own["celery"] = f"-A {shell_word(given.app)}"
        elif given.program.startswith("celery -A "):
            own["celery"] = given.program.removeprefix("celery ").removesuffix(" durable")
        if given.config is not None:
            own["rq"] = f"-c {shell_word(given.config)}"
        if given.url is not None:
            own["rq"] = f"-u {self._redis}"
        return own

    @property
    def _redis(self) -> str:
        """RQ's Redis as a printed command has it. With a password in it, it is taken from the environment."""
        url = self.given.url or ""
        return f'"${named.URL_VARIABLE}"' if has_secret(url) else shell_word(url)

    def close(self) -> None:
        """Lets go of the database, and of Redis."""
        if self._rq is not None:
            self._rq.close()
        if self._journal is not None:
            self._journal.close()


def open_session(given: Invocation, *, installed: bool = True) -> Session:
    """Reads the settings, imports the user's modules and loads the app, where they are named. RQ itself is not loaded yet.

    Args:
        given: what was given on the command line.
        installed: the app must have durable-adapter installed; only `doctor` looks at one that has not.

    Raises:
        DurableError: a setting is not accepted, or the app cannot be loaded.
    """
    from ..settings import load

    code = named.load_code(given)
    app, binding = _celery(given, installed=installed)
    arguments = {"journal": given.journal, "namespace": given.namespace, "schema": given.schema}
    arguments = {name: value for name, value in arguments.items() if value is not None}
    own = [binding.settings] if binding is not None else []
    if code.modules and (by_code := named.installed_by_code()) is not None:
        own.append(by_code)
    _check_same_journal(own, arguments)
    settings = load({**_from(own), **arguments}, engine=app.conf.get if app is not None else None)
    for each in own[:1]:
        settings.origins.update({k: v for k, v in each.origins.items() if k not in arguments and k in settings.origins})
    return Session(given, Output(as_json=given.as_json), settings, binding, app, code)


def _celery(given: Invocation, *, installed: bool) -> tuple[Any, Any]:
    """The Celery app that is named, and what `install()` made of it; None where none is named, or it is not installed."""
    if given.preset is None and given.app is None:
        return None, None
    if find_spec("celery") is None:
        raise NotInstalled(
            f"the app {given.app!r} is named with -A, and Celery is not installed in this Python environment: "
            "pip install 'durable-adapter[celery]', or run this command where your workers run."
        )
    # The only line here that loads a queue library, and only because its app was asked for.
    from ..celery import command as apps

    app = apps.find(given.app) if given.app is not None else given.preset
    binding = apps.binding(app)
    if binding is None and given.app is None and not given.preset_is_named:
        return None, None
    if binding is None and installed:
        raise NotInstalled(
            f"the app {given.app or getattr(app, 'main', None) or app!r} does not have durable-adapter installed: call "
            "durable_adapter.celery.install(app, journal=...) where it is configured. "
            f"`durable-adapter -A {given.app or 'APP'} doctor` checks it."
        )
    return app, binding


def _from(own: Sequence[Settings]) -> dict[str, Any]:
    """What the user's code installed with: it wins over this process's environment, as it does in their own workers."""
    from ..settings import NAMES

    return {name: getattr(own[0], name) for name in NAMES} if own else {}


def _check_same_journal(own: Sequence[Settings], arguments: Mapping[str, Any]) -> None:
    """One command looks at one journal.

    Raises:
        SettingError: the app and RQ are installed on two, and no option says which is meant.
    """
    for name in ("journal", "namespace", "schema"):
        values = {getattr(each, name) for each in own}
        if len(values) > 1 and name not in arguments:
            raise SettingError(
                f"the Celery app and durable_adapter.rq.install() were given another {name} each. Name one engine at a time, or "
                f"say with --{name} which {name} is meant."
            )


@contextlib.contextmanager
def session(ctx: click.Context, *, installed: bool = True) -> Iterator[Session]:
    """A session as a block. What goes wrong in it is told in one message, with the exit code that belongs to it."""
    given = invocation(ctx)
    opened: Session | None = None
    try:
        opened = open_session(given, installed=installed)
        yield opened
    except NotResolvable as error:
        fail(given, error, FINDINGS)
    except DurableError as error:
        fail(given, error, COULD_NOT_LOOK)
    except Exception as error:
        if not type(error).__module__.startswith("sqlalchemy."):
            raise
        fail(given, error, COULD_NOT_LOOK)
    finally:
        if opened is not None:
            opened.close()


def fail(given: Invocation, error: Exception, code: int) -> NoReturn:
    """Says what went wrong, on standard error, or as JSON on standard output; and ends with an exit code."""
    Output(as_json=given.as_json).error(type(error).__name__, hidden(words_of(error), given.journal, given.url))
    raise click.exceptions.Exit(code)


def durable_command(name: str, **settings: Any) -> Callable[[Callable[..., int | None]], click.Command]:
    """Makes a command of a function of a session and its own options; it returns the exit code.

    Args:
        name: the command's name.
        **settings: `installed` (see `open_session`), `examples` and `listing` (see `Command`); the rest goes to click.
    """
    installed = settings.pop("installed", True)

    def decorate(function: Callable[..., int | None]) -> click.Command:
        def run(*args: Any, **kwargs: Any) -> None:
            ctx = click.get_current_context()
            with session(ctx, installed=installed) as opened:
                code = function(opened, *args, **kwargs) or CLEAN
            ctx.exit(code)

        wrapped: Callable[..., None] = update_wrapper(run, function)
        made: click.Command = click.command(name, cls=Command, **settings)(common(wrapped))
        return made

    return decorate
