"""Steps and functions with a decorator of the user's own, above the mark and below it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextvars import ContextVar
from typing import ParamSpec, TypeVar

import durable_adapter as durable
from tests.celery.ledger import ledger

P = ParamSpec("P")
R = TypeVar("R")
TENANT: ContextVar[str] = ContextVar("tenant", default="nobody")


def for_a_tenant(function: Callable[P, R]) -> Callable[P, R]:
    @functools.wraps(function)
    def inner(*args: P.args, **kwargs: P.kwargs) -> R:
        token = TENANT.set("shop")
        try:
            return function(*args, **kwargs)
        finally:
            TENANT.reset(token)

    return inner


@for_a_tenant
@durable.step
def step_with_one_above(order: str) -> str:
    ledger().record(f"charge for {TENANT.get()}", order)
    return f"ch-{order}"


@durable.step
@for_a_tenant
def step_with_one_below(order: str) -> str:
    ledger().record(f"charge for {TENANT.get()}", order)
    return f"ch-{order}"


@for_a_tenant
@durable.workflow
def workflow_with_one_above(order: str) -> str:
    ledger().record(f"charge for {TENANT.get()}", order)
    return f"ch-{order}"


@durable.workflow
@for_a_tenant
def workflow_with_one_below(order: str) -> str:
    ledger().record(f"charge for {TENANT.get()}", order)
    return f"ch-{order}"


@durable.workflow
def calls_both(order: str) -> list[str]:
    return [step_with_one_above(order), step_with_one_below(order)]
