"""The sagas of a run: for each its shape and what makes each of its five steps safe to repeat, drawn from the seed."""

from __future__ import annotations

import random
from dataclasses import dataclass

#: The steps of each saga in their order, and what the bank's ledger calls their effects.
STEPS = {"check": "checks", "charge": "charges", "book": "bookings", "ship": "shipments", "mail": "mails"}
SAFETIES = ("idempotent", "probe", "transactional")
SHAPES = ("chain", "function")


@dataclass(frozen=True)
class Saga:
    """One saga.

    Attributes:
        name: its workflow ID, and the reference under which the bank knows its effects.
        shape: a chain of five messages, or a workflow function that calls five steps in place.
        safeties: one for each step.
    """

    name: str
    shape: str
    safeties: tuple[str, ...]

    @property
    def effects(self) -> list[tuple[str, str]]:
        """Reference and kind of each effect that must exist once."""
        return [(self.name, kind) for kind in STEPS.values()]


def draw(count: int, seed: int) -> list[Saga]:
    """Returns the sagas of a seed: the first ones of a longer run are those of a shorter one."""
    rng = random.Random(seed)
    width = 5
    return [
        Saga(f"saga-{number:0{width}}", rng.choice(SHAPES), tuple(rng.choice(SAFETIES) for _ in STEPS))
        for number in range(1, count + 1)
    ]
