"""The shop that the crash matrix breaks: what charge, ship and mail do, whichever engine runs them.

Everything is configured by the environment. Faults come from outside: at the moments that the bank does not see by itself,
the shop asks it a question of no consequence (`pause`), and the matrix has the bank keep it waiting there.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import sqlalchemy as sa
from legacy_sidekiq_style.client import BankClient
from sqlalchemy.engine import Engine

import durable_adapter as durable
from tests.crash.words import KINDS, SETTLE

#: What is handed to `install()`: the same as in production, only sooner.
HASTE = {"stale": 3, "beat": 0.5, "sweep_every": 0.3, "resend_after": 3}

#: Where the effects of transactional steps are: a table of the shop in the journal's own database.
EFFECTS = sa.table("crash_effect", sa.column("reference", sa.Text), sa.column("kind", sa.Text))

#: A worker from before the deploy: the shop's old code, without the plugin.
PLAIN = bool(os.environ.get("CRASH_PLAIN"))

bank = BankClient()


def pause(order: str, step: str, moment: str) -> None:
    """Tells the bank where this process is; the bank may keep it waiting there."""
    bank.find("checks", reference=f"{order}/{step}/{moment}")


def make_effect(step: str, order: str, safety: str) -> str:
    """What a step is for."""
    if safety == "transactional" and PLAIN:
        with sa.create_engine(os.environ["CRASH_JOURNAL"], poolclass=sa.pool.NullPool).begin() as connection:
            connection.execute(sa.insert(EFFECTS).values(reference=order, kind=KINDS[step]))
        return f"{KINDS[step]}-{order}"
    if safety == "transactional":
        durable.session().execute(sa.insert(EFFECTS).values(reference=order, kind=KINDS[step]))
        pause(order, step, "after-effect")
        return f"{KINDS[step]}-{order}"
    key = durable.idempotency_key() if safety == "idempotent" and not PLAIN else None
    if step == "charge":
        return bank.charge(order, card="4242", amount=7400, key=key).id
    if step == "ship":
        return bank.ship(order, items={"teapot": 1}, key=key).id
    return bank.mail(order, to="ada@example.com", subject="Your order", key=key).id


def probe_of(step: str) -> Callable[..., Any]:
    """Asks the bank whether the step's effect happened."""

    def probe(*args: Any) -> Any:
        found = bank.find(KINDS[step], reference=args[-1])
        return durable.happened(found[0].id) if found else durable.did_not_happen()

    return probe


def declare(step: str, safety: str) -> Callable[[Any], Any]:
    """The mark that the step's author chose."""
    if safety == "undeclared":
        return durable.step
    if safety == "probe":
        return durable.step(probe=probe_of(step), settle=SETTLE)
    return durable.step(**{safety: True})


def step_of(name: str) -> str:
    """The step that a task's or a job's name ends with."""
    return name.rpartition(".")[2]


if os.environ.get("CRASH_SHOW_SQL"):

    @sa.event.listens_for(Engine, "do_connect")
    def _show_sql(_dialect: Any, _record: Any, _args: Any, parameters: dict[str, Any]) -> None:
        """No prepared statements: every statement is on the wire in full, where the proxy can tell them apart."""
        parameters["prepare_threshold"] = None
