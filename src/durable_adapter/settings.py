"""Settings: argument, then environment, then the engine's own settings, then `[tool.durable_adapter]` in pyproject.toml.

Each value keeps its origin, which `doctor` shows. The journal's URL has no default.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from .errors import NotInstalled, SettingError
from .model import DEFAULT_NAMESPACE, LABEL_LENGTH, Mode, is_storable
from .urls import safe_url

#: The prefix of the environment's names: DURABLE_ADAPTER_JOURNAL and so on.
ENVIRONMENT = "DURABLE_ADAPTER_"
#: Names with that prefix that only the command line reads.
OF_THE_COMMANDS = frozenset({"DURABLE_ADAPTER_DEBUG"})
#: The prefix of names in `app.conf` and Django settings: durable_adapter_journal and so on.
ENGINE = "durable_adapter_"


#: The shortest and the longest time of a setting in seconds, and in days. A value outside is probably in the wrong unit.
SECONDS = (0.001, 100 * 365 * 86_400.0)
DAYS = (1 / 24, 100 * 365.0)


def _seconds(text: Any) -> float:
    number = _number(text, "seconds")
    if not SECONDS[0] <= number <= SECONDS[1]:
        raise ValueError(f"must be a number of seconds, of at least {SECONDS[0]:g} and at the most a hundred years")
    return number


def _days(text: Any) -> float:
    number = _number(text, "days")
    if not DAYS[0] <= number <= DAYS[1]:
        raise ValueError("must be a number of days, of at least one hour (0.042) and at the most a hundred years (36500)")
    return number


def _number(text: Any, unit: str) -> float:
    try:
        return float(text)
    except (TypeError, ValueError):
        raise ValueError(f"must be a number of {unit}") from None


def _whole(text: Any) -> int:
    number = int(text)
    if number < 1:
        raise ValueError("must be a whole number of at least 1")
    return number


def _flag(text: Any) -> bool:
    if isinstance(text, bool):
        return text
    if str(text).lower() in ("1", "true", "yes", "on"):
        return True
    if str(text).lower() in ("0", "false", "no", "off", ""):
        return False
    raise ValueError("must be true or false")


def _mode(text: Any) -> Mode:
    try:
        return Mode(str(text))
    except ValueError:
        raise ValueError(f"must be one of {', '.join(Mode)}") from None


def _text(text: Any) -> str:
    if not str(text):
        raise ValueError("must not be empty")
    return str(text)


def _label(text: Any) -> str:
    label = _text(text)
    if len(label) > LABEL_LENGTH or not is_storable(label):
        raise ValueError(
            f"must be {LABEL_LENGTH} characters at the most, without control characters: the journal keeps it with each run"
        )
    return label


@dataclass(frozen=True)
class Settings:
    """Everything that can be set. Times are in seconds.

    Attributes:
        journal: SQLAlchemy URL of the journal.
        namespace: separates the users of one journal.
        schema: PostgreSQL schema of the journal's tables.
        mode: `enforce`, or `off`: no new start is made durable; runs that began durable end durable.
        stale: silence after which a watched worker is declared dead.
        beat: time between two heartbeats of a worker.
        sweep_every: time between two sweeps.
        resend_after: time after which a message that no worker began may count as lost.
        plain_until: time, from when the journal first recorded a task as enforced, in which redelivered unstamped messages
            of the task run plain, as they began.
        retention: days for which a finished run is kept.
        pool_size: database connections kept open per process.
        code_version: the user's own version of the code, for `explain`.
        strict: refuse to start a worker in which an enforced task is not hooked.
        sweeper: run the sweeper inside workers.
    """

    journal: str | None = field(default=None, repr=False)
    namespace: str = DEFAULT_NAMESPACE
    schema: str | None = None
    mode: Mode = Mode.ENFORCE
    stale: float = 60.0
    beat: float = 10.0
    sweep_every: float = 5.0
    resend_after: float = 600.0
    plain_until: float = 86_400.0
    retention: float = 90.0
    pool_size: int = 2
    code_version: str | None = None
    strict: bool = False
    sweeper: bool = True
    origins: dict[str, str] = field(default_factory=dict, compare=False)

    def url(self) -> str:
        """The journal's URL.

        Raises:
            NotInstalled: none is configured; the message says where to set it.
        """
        if self.journal is None:
            raise NotInstalled(
                "no journal is named. Give its URL as install(journal=...), as the environment variable "
                f"{ENVIRONMENT}JOURNAL, as {ENGINE}journal in the engine's settings, or as journal = ... under "
                "[tool.durable_adapter] in pyproject.toml. For example postgresql+psycopg://user@host/database."
            )
        return self.journal


_PARSERS: dict[str, Callable[[Any], Any]] = {
    "journal": _text,
    "namespace": _label,
    "schema": _text,
    "mode": _mode,
    "stale": _seconds,
    "beat": _seconds,
    "sweep_every": _seconds,
    "resend_after": _seconds,
    "plain_until": _seconds,
    "retention": _days,
    "pool_size": _whole,
    "code_version": _label,
    "strict": _flag,
    "sweeper": _flag,
}
NAMES = tuple(f.name for f in fields(Settings) if f.name != "origins")


def load(
    arguments: Mapping[str, Any] | None = None,
    *,
    engine: Callable[[str], Any] | None = None,
    environment: Mapping[str, str] | None = None,
    file: Path | None = None,
) -> Settings:
    """Reads the settings from all sources.

    Args:
        arguments: the arguments passed in code; None values do not count.
        engine: looks up a name such as `durable_adapter_stale` in the engine's settings; None if there is no engine.
        environment: the environment; default the process's own.
        file: the pyproject.toml; default the nearest one above the working directory.

    Raises:
        SettingError: a name is unknown, or a value is not accepted; the message names its origin.
    """
    given = {name: value for name, value in (arguments or {}).items() if value is not None}
    environ = os.environ if environment is None else environment
    table, path = _file(file)
    sources: list[tuple[Mapping[str, Any], str]] = [
        (given, "argument"),
        (
            {n: environ[ENVIRONMENT + n.upper()] for n in NAMES if ENVIRONMENT + n.upper() in environ},
            "environment",
        ),
        ({n: engine(ENGINE + n) for n in NAMES} if engine else {}, "engine settings"),
        (table, f"file {path}"),
    ]
    unknown = [(name, origin) for source, origin in sources for name in source if name not in NAMES]
    unknown += [
        (name, "environment")
        for name in environ
        if name.startswith(ENVIRONMENT) and name[len(ENVIRONMENT) :].lower() not in NAMES and name not in OF_THE_COMMANDS
    ]
    if unknown:
        name, origin = unknown[0]
        raise SettingError(f"{name} ({origin}) is no setting of durable-adapter; there are: {', '.join(NAMES)}")
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for name in NAMES:
        for source, origin in sources:
            if source.get(name) is None:
                continue
            try:
                values[name] = _PARSERS[name](source[name])
            except (TypeError, ValueError) as error:
                given_as = safe_url(source[name]) if isinstance(source[name], str) else source[name]
                raise SettingError(f"{name}={given_as!r} ({origin}): {error}") from error
            origins[name] = origin
            break
        else:
            origins[name] = "default"
    settings = Settings(**values, origins=origins)
    if settings.sweep_every > settings.stale / 4:
        raise SettingError(
            f"sweep_every={settings.sweep_every:g} ({origins['sweep_every']}) must be at most a quarter of "
            f"stale={settings.stale:g} ({origins['stale']}): a sweeper with longer pauses cannot declare a worker dead"
        )
    return settings


def _file(path: Path | None) -> tuple[Mapping[str, Any], Path | None]:
    """Returns the `[tool.durable_adapter]` table of a pyproject.toml, and its path."""
    if path is None:
        here = Path.cwd()
        path = next((p for p in (d / "pyproject.toml" for d in (here, *here.parents)) if p.is_file()), None)
        if path is None:
            return {}, None
    import tomllib

    try:
        table = tomllib.loads(path.read_text()).get("tool", {}).get("durable_adapter", {})
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise SettingError(f"{path} cannot be read: {error}") from error
    return table, path
