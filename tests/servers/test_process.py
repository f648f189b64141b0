"""A `RunningProcess` is watched by its output and leaves nothing behind."""

import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.servers import RunningProcess, eventually
from tests.servers.fixtures import StartProcess

FOREVER = "import time\nprint('ready')\ntime.sleep(600)"

# A child in the same session and one that leaves it, as the work horse of RQ does; both ignore a polite request.
FAMILY = """
import os, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
for leaves in (False, True):
    if os.fork() == 0:
        if leaves:
            os.setsid()
        os.write(1, f"child {os.getpid()}\\n".encode())  # in one piece, for there are two
        time.sleep(600)
print("ready")
time.sleep(600)
"""


def python(source: str) -> list[str]:
    return [sys.executable, "-c", source]


def family_of(process: RunningProcess) -> list[psutil.Process]:
    process.wait_for_line("ready")
    pids = [int(process.wait_for_line(r"child (\d+)", skip=skip)[1]) for skip in (0, 1)]
    assert sorted(pids) == sorted(process.children())
    return [psutil.Process(pid) for pid in [process.pid, *pids]]


def all_gone(processes: list[psutil.Process]) -> bool:
    return not any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in processes)


def test_waits_for_a_line_and_returns_the_match(start_process: StartProcess):
    process = start_process(python("print('port 4711')\nimport time; time.sleep(600)"))
    assert process.wait_for_line(r"^port (\d+)$")[1] == "4711"
    assert process.returncode is None


def test_does_not_wait_for_a_line_of_a_process_that_has_ended(start_process: StartProcess):
    process = start_process(python("import sys; print('sorry'); sys.exit(3)"), name="poor thing")
    with pytest.raises(AssertionError, match=r"(?s)poor thing ended with 3 without a line 'ready'.*sorry"):
        process.wait_for_line("ready")


def test_shows_the_output_when_a_line_does_not_come_in_time(start_process: StartProcess):
    process = start_process(python(FOREVER))
    process.wait_for_line("ready")
    with pytest.raises(AssertionError, match=r"(?s)not within 0\.1 s.*ready"):
        process.wait_for_line("never", timeout=0.1)


def test_kill_sends_a_signal_to_the_process_alone(start_process: StartProcess):
    process = start_process(python(FAMILY))
    parent, *children = family_of(process)
    process.kill(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert all(child.is_running() for child in children)
    process.stop()
    eventually(lambda: all_gone([parent, *children]), message="the end of the family")


def test_kill_all_takes_the_descendants_along(start_process: StartProcess):
    process = start_process(python(FAMILY))
    family = family_of(process)
    process.kill_all(signal.SIGKILL)
    eventually(lambda: all_gone(family), message="the end of the family")


def test_stop_ends_children_that_ignore_it_or_left_the_session(tmp_path: Path):
    with RunningProcess(python(FAMILY), log=tmp_path / "log") as process:
        family = family_of(process)
        process.stop(timeout=0.2)
    assert all_gone(family)


def test_stop_ends_a_frozen_process_in_good_order(start_process: StartProcess):
    process = start_process(python("import signal, sys, time\nsignal.signal(15, lambda *_: sys.exit(7))\n" + FOREVER))
    process.wait_for_line("ready")
    process.kill(signal.SIGSTOP)
    eventually(lambda: psutil.Process(process.pid).status() == psutil.STATUS_STOPPED)
    process.stop()
    assert process.returncode == 7


def test_stop_leaves_the_processes_of_others_alone(start_process: StartProcess):
    stranger = subprocess.Popen(python(FOREVER), stdout=subprocess.DEVNULL)
    try:
        start_process(python(FOREVER)).stop()
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_environment_is_added_to_and_taken_from(start_process: StartProcess, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("UNWANTED", "1")
    show = "import os; print(os.environ['WANTED'], os.environ.get('UNWANTED'))"
    process = start_process(python(show), env={"WANTED": "yes", "UNWANTED": None})
    assert process.wait() == 0
    assert process.output == "yes None\n"


def test_a_second_process_on_the_same_log_sees_its_own_output_alone(tmp_path: Path):
    log = tmp_path / "log"
    for word in ("first", "second"):
        with RunningProcess(python(f"print('{word}')"), log=log) as process:
            process.wait()
            assert process.output == f"{word}\n"
    assert log.read_text() == "first\nsecond\n"
