"""A server process of our own: started in a directory of its own, waited for, and ended with the tests."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.servers import unprivileged
from tests.servers.unavailable import Unavailable
from tests.servers.waiting import eventually

START_TIMEOUT = 30.0
STOP_TIMEOUT = 10.0


def launch_command(how: str, command: Sequence[str | Path]) -> list[str]:
    """`command`, run by `unprivileged.py`; see there for `how`."""
    return [sys.executable, "-IS", unprivileged.__file__, how, *map(str, command)]


class OwnProcess:
    """A server that belongs to the tests alone. It also ends when the process that started it is killed."""

    def __init__(self, command: Sequence[str | Path], *, log: Path, is_ready: Callable[[], bool], how: str = "as-is") -> None:
        self.log = log
        self.name = Path(command[0]).name
        with log.open("ab") as output:
            self._popen = subprocess.Popen(
                launch_command(how, command),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, "LC_ALL": "C"},
                start_new_session=True,
            )
        try:
            eventually(lambda: self.has_ended() or is_ready(), START_TIMEOUT, f"the start of {self.name}")
        except BaseException:
            self.end(signal.SIGKILL)
            raise
        if self.has_ended():
            raise Unavailable(f"{self.name} ended as soon as it was started: {self.last_words()}")

    @property
    def pid(self) -> int:
        return self._popen.pid

    def has_ended(self) -> bool:
        return self._popen.poll() is not None

    def last_words(self) -> str:
        lines = self.log.read_text(errors="replace").strip().splitlines()
        return " / ".join(lines[-3:]) or "(it wrote nothing)"

    def end(self, sig: signal.Signals) -> None:
        """Send `sig` and wait for the end; a server that does not listen is killed."""
        self._popen.send_signal(sig)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._popen.wait(STOP_TIMEOUT)
        self._popen.kill()
        self._popen.wait()
