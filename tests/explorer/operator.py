"""A person with the command line: looks at a run, decides what to do, and does it, by the commands' own code."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from durable_adapter.errors import JournalUnreachable, NotResolvable
from durable_adapter.model import Kind
from durable_adapter.reconcile import changes, orders
from durable_adapter.reconcile.commands import Caller
from durable_adapter.reconcile.verdicts import Verdict, decidable, decide
from durable_adapter.runtime.values import encode

if TYPE_CHECKING:
    from .schedule import Schedule

COMMANDS = ("rollback", "cancel", "retry", "verdict", "verdict", "verdict")


class Operator:
    """Does one thing to one run.

    Args:
        schedule: the schedule.
        chance: its randomness.
        lies: the probability of a verdict that is not what the bank says.
    """

    def __init__(self, schedule: Schedule, chance: random.Random, lies: float) -> None:
        self._schedule = schedule
        self._chance = chance
        self._lies = lies
        self.command = chance.choice(schedule.commands)

    def work(self) -> None:
        """Looks, decides, acts."""
        schedule, chance = self._schedule, self._chance
        journal = schedule.stage.journal
        if self.command == "verdict" and chance.random() < 0.8:
            schedule.scheduler.wait(lambda: schedule.is_undecided, "waits for something to decide")
        refs = sorted(schedule.refs())
        if not refs:
            return
        ref = chance.choice(refs)
        try:
            run, steps = journal.reads.run(ref), journal.reads.steps(ref)
        except JournalUnreachable as error:
            schedule.say(f"could not look: {error}")
            return
        if run is None:
            return
        engine = schedule.client.engine
        # With an app at hand or without one, as on call.
        engines = {engine.name: engine} if chance.random() < 0.5 else {}
        operator = changes.Operator(journal, who="operator", why="explored", engines=engines, caller=Caller())
        try:
            match self.command:
                case "rollback":
                    change = orders.rollback(operator, run, steps)
                case "cancel":
                    change = orders.cancel(operator, run, steps)
                case "retry":
                    failed = [s for s in steps if s.status == "failed" and s.kind is not Kind.FUNCTION]
                    one = chance.choice(failed) if failed and chance.random() < 0.3 else None
                    change = orders.retry(operator, run, steps, one)
                case _:
                    waiting = decidable(run, steps)
                    if not waiting:
                        schedule.say("finds nothing to decide")
                        return
                    step = chance.choice(waiting)
                    happened = schedule.happened(step.name)
                    says = not happened if chance.random() < self._lies else happened
                    schedule.verdicts.append((step.name, says, happened))
                    verdict = Verdict.HAPPENED if says else Verdict.DID_NOT_HAPPEN
                    if not says and chance.random() < 0.3:
                        verdict = Verdict.FAILED
                    value = encode({"name": step.name}) if says else None
                    schedule.say(f"will say that {step.name} {verdict.value}")
                    change = decide(operator, run, steps, step, verdict, value)
            schedule.say(f"would {change.would}")
            outcome = change.carry_out()
            if self.command == "retry" and outcome.done:
                schedule.retried.update(step.name for step in steps)
            schedule.say(outcome.says)
        except JournalUnreachable as error:
            schedule.say(f"could not look or change: {error}")
        except NotResolvable as refused:
            schedule.say(f"is refused: {str(refused)[:120]}")
