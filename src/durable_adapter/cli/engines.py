"""Which engines a call names, and how they are reached: RQ by its Redis, Celery by its app. Nothing is loaded before it is used.

RQ has no app. What RQ's own commands take (`-u`, `-c`, `-P`, `-S`, and their environment variables) says where jobs are;
`--import` names the modules in which functions are marked, or in which `durable_adapter.rq.install()` is called.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from ..errors import NotInstalled, SettingError

if TYPE_CHECKING:
    from ..settings import Settings
    from .options import Invocation

#: Where RQ's own commands look for what is not given as an option.
URL_VARIABLE, CONFIG_VARIABLE = "RQ_REDIS_URL", "RQ_CONFIG"


@dataclass
class Code:
    """What of the user's was imported.

    Attributes:
        settings: the settings of RQ's settings module; empty where none is named.
        modules: what was imported, that module first.
    """

    settings: Mapping[str, Any] = field(default_factory=dict)
    modules: list[ModuleType] = field(default_factory=list)


def url_of(given: Invocation) -> str | None:
    """RQ's Redis: the option, else the environment."""
    return given.url or os.environ.get(URL_VARIABLE) or None


def config_of(given: Invocation) -> str | None:
    """RQ's settings module: the option, else the environment."""
    return given.config or os.environ.get(CONFIG_VARIABLE) or None


def names_rq(given: Invocation) -> bool:
    """Whether a call names RQ. One whose environment alone does, where RQ is not installed, does not."""
    if given.url or given.config:
        return True
    return bool(url_of(given) or config_of(given)) and find_spec("rq") is not None


def load_code(given: Invocation) -> Code:
    """Imports RQ's settings module and the modules that `--import` names, as RQ's commands would: this directory is on the path.

    Raises:
        SettingError: one of them cannot be imported, or a path is no directory.
    """
    config = config_of(given) if names_rq(given) else None
    if not (names_rq(given) or given.modules or given.paths):
        return Code()
    for path in given.paths or ["."]:
        if not Path(path).is_dir():
            raise SettingError(
                f"-P {path!r} is no directory. Give the directory in which your modules are; this is {Path.cwd()}."
            )
        if str(Path(path).resolve()) not in sys.path:
            sys.path.append(str(Path(path).resolve()))
    code = Code()
    if config is not None:
        named = f"-c {config}" if given.config else f"{CONFIG_VARIABLE}={config}"
        module = _imported(config, f"RQ's settings module ({named})")
        code.settings = {name: value for name, value in vars(module).items() if name.upper() == name}
        code.modules.append(module)
    code.modules += [_imported(name, f"the module of --import {name}") for name in given.modules]
    return code


def _imported(name: str, what: str) -> ModuleType:
    if name.endswith(".py") or "/" in name:
        dotted = name.removesuffix(".py").strip("./").replace("/", ".")
        raise SettingError(f"{what} is given as a file. Give its dotted name, such as {dotted}, and its directory with -P.")
    try:
        return import_module(name)
    except Exception as error:
        raise SettingError(
            f"{what} cannot be imported: {type(error).__name__}: {error}. Give a dotted name, and with -P the directory that it "
            f"is in; without -P that is {Path.cwd()}."
        ) from error


def installed_by_code() -> Settings | None:
    """The settings with which the user's code called `durable_adapter.rq.install()`; None where it did not."""
    loaded = sys.modules.get("durable_adapter.rq.binding")
    if loaded is None or not loaded.Binding.installed:
        return None
    settings: Settings = loaded.Binding.installed[-1].settings
    return settings


class RQ:
    """RQ, as a command works with it.

    Args:
        given: what was given on the command line.
        code: what was imported.
        settings: the settings of this call.

    Raises:
        NotInstalled: RQ is not installed here.
        SettingError: the URL, the settings or the serializer are not accepted.
    """

    def __init__(self, given: Invocation, code: Code, settings: Settings) -> None:
        if find_spec("rq") is None:
            raise NotInstalled(
                "RQ is named with -u or -c, and it is not installed in this Python environment: "
                "pip install 'durable-adapter[rq]', or run this command where your workers run."
            )
        # The only line here that loads RQ, and only because it was named.
        from ..rq import command

        self.command = command
        self.code = code
        self.connection = command.connect(url_of(given), code.settings)
        self.serializer = command.serializer_of(given.serializer)
        self.binding = command.opened(settings, self.connection, self.serializer)
        self.engine = self.binding.engine
        self.witness = command.Witness(self.binding)

    @property
    def where(self) -> str:
        """Its Redis, without the password."""
        return self.command.where(self.connection)

    @property
    def queues(self) -> list[str]:
        """The queues that the settings module names."""
        named = self.code.settings.get("QUEUES") or ()
        return [str(name) for name in ([named] if isinstance(named, str) else named)]

    def knows(self, name: str) -> bool:
        """Whether the code has a function of a name; also where none of its code is at hand, so that nobody can say."""
        return self.command.knows(self.binding, name)

    def parameters(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any] | None:
        """A call's arguments by parameter."""
        return self.command.parameters(self.binding, name, args, kwargs)

    def close(self) -> None:
        """Lets go of Redis and of the journal."""
        self.binding.journal.close()
        self.connection.close()
