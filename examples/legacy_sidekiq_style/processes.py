"""The processes of one telling: the bank, the workers, a web process. Every process is started here, in a session of
its own, and only what was started here is ever signalled.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from types import TracebackType

#: Seconds that a process gets to end by itself before it is killed. A Celery worker on files takes more than five for
#: its warm shutdown; when a story has been told there is nothing to wait for.
GRACE = 1.0


class DidNotStart(Exception):
    """A process ended, or time ran out, before it was of use; the message holds the end of its log."""


class Processes:
    """Starts processes in *workdir* with *env*, and ends all of them on the way out."""

    def __init__(self, workdir: Path, env: Mapping[str, str]) -> None:
        self.workdir, self.env = workdir, dict(env)
        self._started: list[subprocess.Popen[bytes]] = []
        self._lock = threading.Lock()
        self._closed = False

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Ends every process that was started here; none can be started afterwards. May be called from any thread."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            started = list(self._started)
        for process in started:
            if process.poll() is None:
                process.terminate()
        until = time.monotonic() + GRACE
        for process in started:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.1, until - time.monotonic()))
            kill_with_children(process)

    def start(self, arguments: Sequence[str], log: str) -> subprocess.Popen[bytes]:
        """Starts `python *arguments`; what it prints is added to the file *log*.

        Raises:
            DidNotStart: everything was ended already.
        """
        with self._lock, (self.workdir / log).open("ab") as output:
            if self._closed:
                raise DidNotStart("the telling was broken off")
            process = subprocess.Popen(
                [sys.executable, *arguments],
                cwd=self.workdir,
                env=self.env,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            self._started.append(process)
        return process

    def run(self, arguments: Sequence[str], log: str, timeout: float = 60.0) -> None:
        """Runs `python *arguments` to its end.

        Raises:
            DidNotStart: it failed, or took longer than *timeout* seconds.
        """
        process = self.start(arguments, log)
        try:
            if process.wait(timeout) == 0:
                return
        except subprocess.TimeoutExpired:
            kill_with_children(process)
        raise DidNotStart(f"python {' '.join(arguments)} failed:\n{self.tail(log)}")

    def tail(self, log: str, lines: int = 20) -> str:
        """The end of a log."""
        return "\n".join((self.workdir / log).read_text(errors="replace").splitlines()[-lines:])


def port_of(processes: Processes, arguments: Sequence[str], name: str) -> str:
    """Starts a server with `--port-file`, and returns the port that it took.

    Raises:
        DidNotStart: it ended, or took too long.
    """
    port_file = processes.workdir / f"{name}.port"
    process = processes.start([*arguments, "--port", "0", "--port-file", str(port_file)], f"{name}.log")
    until = time.monotonic() + 30
    while not port_file.exists():
        if process.poll() is not None or time.monotonic() > until:
            raise DidNotStart(f"the {name} did not open:\n{processes.tail(f'{name}.log')}")
        time.sleep(0.02)
    return port_file.read_text().strip()


def kill_with_children(process: subprocess.Popen[bytes]) -> None:
    """`kill -9` of a process that was started here and of everything in its session."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    # RQ's work horses leave the group of their worker, and stay in its session.
    for pid in _session(process.pid):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)
    process.wait()


def kill_child(process: subprocess.Popen[bytes], pid: int) -> None:
    """`kill -9` of one child of a process that was started here.

    Raises:
        ValueError: *pid* is no such child.
    """
    if os.getsid(pid) != process.pid:
        raise ValueError(f"process {pid} does not belong to process {process.pid}, which was started here")
    os.kill(pid, signal.SIGKILL)


def _session(leader: int) -> Iterator[int]:
    """The processes of the session that a process began."""
    if Path("/proc/self").exists():
        names = [entry.name for entry in Path("/proc").iterdir()]
    else:
        names = subprocess.run(["ps", "-A", "-o", "pid="], check=True, capture_output=True, text=True).stdout.split()
    for pid in (int(name) for name in names if name.isdigit()):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if os.getsid(pid) == leader:
                yield pid
