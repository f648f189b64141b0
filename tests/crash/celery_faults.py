"""The faults of the Celery matrix: the common ones, and those of a broker that waits for acknowledgements."""

from __future__ import annotations

from collections.abc import Callable

from tests.crash import faults
from tests.crash.faults import LIMIT, Play, is_alive, is_connected, lose_the_message, open_at_last
from tests.crash.stage import SOON
from tests.crash.words import STEPS
from tests.servers import eventually

#: Seconds of a countdown that outlasts the visibility timeout.
COUNTDOWN = 7


def early(play: Play) -> None:
    """The child dies when the broker knows nothing of its message any more."""
    with open_at_last(play.gate(play.cell.moment)) as gate:
        play.start("early")
        play.stage.kill_child(gate.arrived(timeout=SOON)["pid"])


def slow(play: Play) -> None:
    """The bank answers only when the broker has delivered the message a second time."""
    with open_at_last(play.gate("after-effect", times=None)) as gate:
        play.start()
        gate.arrived(timeout=SOON)
        eventually(lambda: play.deliveries() > 1, SOON, "the second delivery")


def countdown(play: Play) -> None:
    """It is put off for longer than the broker waits for an acknowledgement."""
    play.start(countdown=COUNTDOWN)


def flush(play: Play) -> None:
    """Loses every message of the workflow between its publication and its delivery, one after the other."""
    stage = play.stage
    with stage.occupied(play.order) as busy:
        play.start()
        lose_the_message(stage)
        if play.cell.shape != "chain":
            return
        # One worker is kept busy, so that what the other one publishes stays in the queue.
        gates = [play.passing(step, "after-publish") for step in STEPS[1:]]
        busy[0].release()
        for gate in gates:
            with open_at_last(gate):
                gate.arrived(timeout=SOON)
                lose_the_message(stage)


def soft_limit(play: Play) -> None:
    """The body gets an exception."""
    with open_at_last(play.gate("after-effect")) as gate:
        play.start(soft_time_limit=LIMIT)
        pid = gate.arrived(timeout=SOON)["pid"]
        # The signal has come when the process gives its request up.
        eventually(lambda: not is_connected(play, pid), SOON, "the soft time limit")


def hard_limit(play: Play) -> None:
    """The pool kills the child."""
    with open_at_last(play.gate("after-effect")) as gate:
        play.start(time_limit=LIMIT)
        pid = gate.arrived(timeout=SOON)["pid"]
        eventually(lambda: not is_alive(pid), SOON, "the hard time limit")


ACTS: dict[str, Callable[[Play], None]] = {
    "kill-child": faults.kill_child,
    "kill-worker": faults.kill_worker,
    "early": early,
    "slow": slow,
    "countdown": countdown,
    "twice": faults.twice,
    "flush": flush,
    "soft-limit": soft_limit,
    "hard-limit": hard_limit,
    "error": faults.error,
    "away": faults.away,
    "lost": faults.lost,
    "frozen": faults.frozen,
    "plain-all": faults.plain_all,
    "plain-first": faults.plain_first,
}
