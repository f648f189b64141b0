"""Threads of which exactly one runs: at every switch point the seed decides which one goes on.

An actor is one thread. It is switched at the points that it passes, waits for conditions instead of locks, and is killed at a
point: it unwinds at once, and nothing that it still tries reaches the database or the bank.
"""

from __future__ import annotations

import random
import sys
import threading
import traceback
from collections.abc import Callable
from typing import Protocol

from durable_adapter.errors import Killed

#: Seconds after which a schedule whose thread does not come to its next switch point is given up.
HANGS = 60.0


class Here(threading.local):
    """Which actor the current thread is."""

    actor: Actor | None = None


HERE = Here()


class Hanging(Exception):
    """Raised where a thread of a schedule did not come to its next switch point: it waits for something real."""


class Director(Protocol):
    """What a schedule decides besides who runs."""

    def decide(self, actor: Actor, label: str) -> None:
        """Called at each switch point, before the next actor is chosen."""

    def idle(self) -> bool:
        """Called when no actor can run; makes one able to, or returns False to end the schedule."""


class Actor:
    """One thread of a schedule."""

    def __init__(self, name: str, work: Callable[[], None]) -> None:
        self.name = name
        self.work = work
        #: Whether it may run; None where it waits for nothing.
        self.ready: Callable[[], bool] | None = None
        self.is_frozen = False
        self.is_dead = False
        self.is_done = False
        self.at = ""
        self.gate = threading.Lock()
        self.gate.acquire()

    @property
    def can_run(self) -> bool:
        """Whether it may be chosen."""
        if self.is_done or self.is_frozen:
            return False
        return self.ready is None or self.ready()


class Scheduler:
    """Runs actors one at a time.

    Args:
        random: the schedule's own randomness.
        director: decides about everything else.
        switch: the probability of going on with another actor at a point.
    """

    def __init__(self, random: random.Random, director: Director, switch: float) -> None:
        self._random = random
        self._director = director
        self._switch = switch
        self._actors: list[Actor] = []
        self._main = threading.Lock()
        self._main.acquire()
        self._urgent: Actor | None = None
        #: How many switch points were passed.
        self.points = 0
        #: Told each point: the actor and the label.
        self.tell: Callable[[Actor, str], None] | None = None
        #: What actors raised that they should not have.
        self.crashes: list[str] = []

    def spawn(self, name: str, work: Callable[[], None]) -> Actor:
        """Makes an actor, which runs when it is chosen."""
        actor = Actor(name, work)
        self._actors.append(actor)
        threading.Thread(target=self._run, args=(actor,), name=f"explorer-{name}", daemon=True).start()
        return actor

    def play(self) -> None:
        """Runs the actors until none can run and the director ends the schedule; then ends what is left of them.

        Raises:
            Hanging: a thread waits for something that is not the scheduler's.
        """
        first = self._choose(None)
        if first is not None:
            self._go_on_with(first)
        for actor in self._actors:
            if not actor.is_done:
                actor.is_dead, actor.is_frozen = True, False
                self._ending = True
                self._go_on_with(actor)

    _ending = False

    def _go_on_with(self, actor: Actor) -> None:
        actor.gate.release()
        points = -1
        while not self._main.acquire(timeout=HANGS):
            if points == self.points:
                raise Hanging("a thread of the schedule hangs:\n" + "\n".join(_stacks()))
            points = self.points  # one that goes on may take its time

    def _run(self, actor: Actor) -> None:
        actor.gate.acquire()
        HERE.actor = actor
        try:
            if not actor.is_dead:
                actor.work()
        except Killed:
            pass
        except BaseException:
            self.crashes.append(f"{actor.name} ended in\n{traceback.format_exc()}")
        HERE.actor = None
        actor.is_done = True
        following = None
        try:
            following = None if self._ending else self._choose(None)
        except Exception:
            self.crashes.append(f"the schedule ended in\n{traceback.format_exc()}")
        (following.gate if following is not None else self._main).release()

    def kill(self, actor: Actor) -> None:
        """Kills an actor at the point where it stands; it unwinds before anything else runs."""
        if not actor.is_done:
            actor.is_dead, actor.is_frozen, actor.ready = True, False, None
            self._urgent = actor

    def point(self, label: str) -> None:
        """A switch point of the current actor; nothing for a thread that is none."""
        actor = HERE.actor
        if actor is None:
            return
        if actor.is_dead:
            raise Killed(label)
        self.points += 1
        actor.at = label
        if self.tell is not None:
            self.tell(actor, label)
        self._director.decide(actor, label)
        self._hand_over(actor)

    def wait(self, ready: Callable[[], bool], label: str) -> None:
        """Has the current actor wait until a condition holds."""
        actor = HERE.actor
        assert actor is not None
        if actor.is_dead:
            raise Killed(label)
        actor.at, actor.ready = label, ready
        self._hand_over(actor)
        actor.ready = None

    def _hand_over(self, actor: Actor) -> None:
        following = self._choose(actor)
        if following is not actor:
            (following.gate if following is not None else self._main).release()
            actor.gate.acquire()
        if actor.is_dead:
            raise Killed(actor.at)

    def _choose(self, current: Actor | None) -> Actor | None:
        """The actor that goes on; None where the schedule is over."""
        while True:
            if self._urgent is not None:
                urgent, self._urgent = self._urgent, None
                if not urgent.is_done:
                    return urgent
            if current is not None and current.can_run and self._random.random() >= self._switch:
                return current
            able = [actor for actor in self._actors if actor.can_run]
            if able:
                return able[0] if len(able) == 1 else self._random.choice(able)
            if not self._director.idle():
                return None


def _stacks() -> list[str]:
    """Where the threads of the schedule stand."""
    frames = sys._current_frames()
    return [
        f"{thread.name}:\n{''.join(traceback.format_stack(frames[thread.ident]))}"
        for thread in threading.enumerate()
        if thread.ident in frames and thread.name.startswith("explorer-")
    ]


class TurnLock:
    """Takes the place of an `RLock` that is held across switch points: who waits for it waits in the scheduler.

    Args:
        scheduler: the schedule's.
    """

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._owner: Actor | None = None
        self._depth = 0

    def __enter__(self) -> None:
        actor = HERE.actor
        if actor is not None and self._owner not in (None, actor):
            self._scheduler.wait(lambda: self._owner is None or self._owner.is_done, "waits for a lock of its process")
        self._depth = self._depth + 1 if self._owner is actor else 1
        self._owner = actor

    def __exit__(self, *_: object) -> None:
        self._depth -= 1
        if not self._depth:
            self._owner = None
