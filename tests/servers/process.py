"""Subprocesses of a test: in a session of their own, logged to a file, and always ended, with all they left behind."""

import contextlib
import os
import re
import signal
import subprocess
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

from tests.servers.waiting import eventually

# Every process that descends from ours inherits this variable, also one that left the session (RQ's work horses do) or
# lost its parent. That is how it is known to be ours.
MARK = "DURABLE_TEST_PROCESS"

TAIL_LINES = 60


class RunningProcess:
    """One subprocess, running since the object was made.

    Args:
        command: program and arguments.
        log: file that standard output and standard error are appended to.
        env: variables added to those of this process; a value of None removes the variable.
        cwd: directory to run in.
        name: what failures call it; the program's name where none is given.

    Example:
        with RunningProcess([sys.executable, "-c", "print('ready'); input()"], log=tmp_path / "log") as process:
            process.wait_for_line("^ready$")
            process.kill(signal.SIGKILL)
            assert process.wait() == -signal.SIGKILL
    """

    def __init__(
        self,
        command: Sequence[str | Path],
        *,
        log: Path,
        env: Mapping[str, str | None] | None = None,
        cwd: Path | None = None,
        name: str | None = None,
    ) -> None:
        self.command = [str(part) for part in command]
        self.name = name or Path(self.command[0]).name
        self.log = log
        self._mark = uuid.uuid4().hex
        self._began = time.time()
        changes = {"PYTHONUNBUFFERED": "1", **(env or {}), MARK: self._mark}
        variables: dict[str, str | None] = {**os.environ, **changes}
        with log.open("ab") as output:
            self._log_start = output.tell()
            self._popen = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={key: value for key, value in variables.items() if value is not None},
                cwd=cwd,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def returncode(self) -> int | None:
        """The exit code, minus the signal's number if a signal ended it, None while it runs."""
        return self._popen.poll()

    @property
    def output(self) -> str:
        """All that it wrote so far."""
        with self.log.open("rb") as written:
            written.seek(self._log_start)
            return written.read().decode(errors="replace")

    def children(self) -> list[int]:
        """The pids of its living direct children: the pool's processes, for a prefork worker."""
        try:
            return [child.pid for child in psutil.Process(self.pid).children() if child.status() != psutil.STATUS_ZOMBIE]
        except psutil.NoSuchProcess:
            return []

    def wait_for_line(self, pattern: str, timeout: float = 30.0, skip: int = 0) -> re.Match[str]:
        """Wait until a line of its output matches `pattern` and return the match.

        Args:
            pattern: regular expression, searched anywhere in the line.
            timeout: seconds.
            skip: how many matching lines to pass over, for the second start of something.

        Raises:
            AssertionError: when the time is over, or as soon as the process has ended without such a line.
        """
        expression = re.compile(pattern, re.MULTILINE)

        def nth_match() -> re.Match[str] | None:
            ended = self.returncode is not None
            matches = list(expression.finditer(self.output))
            if len(matches) > skip:
                return matches[skip]
            if ended:
                raise AssertionError(f"{self.name} ended with {self.returncode} without a line {pattern!r}:\n{self.tail()}")
            return None

        return eventually(nth_match, timeout, lambda: f"a line {pattern!r} from {self.name}:\n{self.tail()}")

    def wait(self, timeout: float = 30.0) -> int:
        """Wait until it has ended and return its exit code."""
        try:
            return self._popen.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.name} still runs after {timeout:g} s:\n{self.tail()}") from None

    def kill(self, sig: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal to this process alone; nothing happens if it has ended."""
        self._popen.send_signal(sig)

    def kill_all(self, sig: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal to this process and to everything that descends from it: the loss of a whole machine."""
        for process in self.remains():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(sig)

    def stop(self, timeout: float = 10.0) -> None:
        """Ask it to end (SIGTERM), wait, then kill what is left of it and of all it started."""
        if self.returncode is None:
            self.kill_all(signal.SIGCONT)  # a frozen process would never see the request
            self.kill(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._popen.wait(timeout)

        def nothing_left() -> bool:
            self.kill_all(signal.SIGKILL)
            self._popen.poll()
            return not self.remains()

        eventually(nothing_left, 10, lambda: f"the end of {[process.pid for process in self.remains()]}")

    def remains(self) -> list[psutil.Process]:
        """The living processes that are this one, descend from it or bear its mark; never one of anybody else's."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.create_time() < self._began - 1 or process.status() == psutil.STATUS_ZOMBIE:
                    continue
                # Its children are in its session, unless they made one of their own; those still bear the mark.
                if os.getsid(process.pid) == self.pid or process.environ().get(MARK) == self._mark:
                    found.append(process)
            except (psutil.Error, OSError):
                continue
        return found

    def tail(self) -> str:
        """The last lines of its output, for a failure."""
        lines = self.output.splitlines()
        return "\n".join(lines[-TAIL_LINES:]) or "(it wrote nothing)"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()
