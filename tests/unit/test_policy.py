"""Declarations as data: checked when they are made, with an error that names the option, the value and what is accepted."""

from __future__ import annotations

import builtins
import socket
import urllib.error
from dataclasses import FrozenInstanceError
from datetime import timedelta
from typing import Any

import pytest

from durable_adapter.declare.effects import NeverConnected, causes, nothing_left
from durable_adapter.declare.policy import StepPolicy, WorkflowPolicy, template_fields
from durable_adapter.declare.registry import DECLARED, Declarations
from durable_adapter.declare.retry import RetryPolicy
from durable_adapter.declare.verdicts import CannotTell, DidNotHappen, Happened, cannot_tell, did_not_happen, happened
from durable_adapter.errors import DeclarationError
from durable_adapter.model import SECOND, Safety


class Declined(Exception):
    """A refusal."""


class Retry(Exception):
    """Wraps an error as Celery's own does."""

    def __init__(self, exc: Any) -> None:
        super().__init__("retry")
        self.exc = exc


def probe() -> Any: ...


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"transactional": True, "probe": probe}, r"transactional=True cannot be joined with probe: .* Remove one of the two"),
        ({"transactional": True, "idempotent": True}, r"transactional=True cannot be joined with idempotent"),
        ({"retry": RetryPolicy()}, r"retry= on a step that nothing makes safe .* idempotent=True, transactional=True"),
        ({"retry": 3, "idempotent": True}, r"retry=3 must be a durable\.RetryPolicy"),
        ({"idempotent": 5}, r"idempotent=5 must be True or a timedelta \(its window\)"),
        ({"idempotent": timedelta(0)}, r"idempotent=datetime\.timedelta\(0\) must be a positive span of time"),
        ({"probe": "find_charge"}, r"probe='find_charge' must be a function of the step's own arguments"),
        ({"did_not_happen": "Declined"}, r"did_not_happen='Declined' must be an error type or a tuple of error types"),
        ({"did_not_happen": (Declined, 5)}, r"did_not_happen holds 5, which is not an error type"),
        ({"maybe_happened": int}, r"maybe_happened holds <class 'int'>, which is not an error type"),
        ({"did_not_happen": Declined, "maybe_happened": Declined}, r"Declined cannot be in did_not_happen and in maybe_happened"),
        ({"timeout": -1}, r"timeout=-1 must be a number of seconds or a timedelta, not negative"),
        ({"timeout": True}, r"timeout=True must be a number of seconds"),
        ({"settle": float("inf")}, r"settle=inf must be a number of seconds"),
        ({"drift": "ignore"}, r"drift='ignore' must be 'hold' or 'record'"),
        ({"name": ""}, r"name='' must be a text that is not empty"),
        ({"key": 5}, r"key=5 must be a template such as 'order-\{order_id\}'"),
        ({"key": "item-{sku"}, r"key='item-\{sku' is no template such as 'order-\{order_id\}': expected"),
    ],
    ids=lambda value: " and ".join(value) if isinstance(value, dict) else "",
)
def test_a_declaration_that_cannot_be_kept_says_which_option_and_what_is_accepted(options: dict[str, Any], says: str) -> None:
    with pytest.raises(DeclarationError, match=says) as caught:
        StepPolicy(**options, subject="durable.step on shop.charge")
    assert str(caught.value).startswith("durable.step on shop.charge: ")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"initial_interval": "soon"}, r"initial_interval='soon' must be a number of seconds or a timedelta"),
        ({"maximum_interval": -1}, r"maximum_interval=-1 must be"),
        ({"coefficient": 0.5}, r"coefficient=0\.5 must be a number of at least 1"),
        ({"maximum_attempts": -1}, r"maximum_attempts=-1 must be a whole number; 0 means without end"),
        ({"maximum_attempts": 1.5}, r"maximum_attempts=1\.5 must be a whole number"),
        ({"jitter": 2}, r"jitter=2 must be a number from 0 to 1"),
        ({"non_retryable": "ValueError"}, r"non_retryable='ValueError' must be an error type"),
    ],
    ids=lambda value: " and ".join(value) if isinstance(value, dict) else "",
)
def test_a_retry_policy_that_cannot_be_kept_says_why(options: dict[str, Any], says: str) -> None:
    with pytest.raises(DeclarationError, match=says):
        RetryPolicy(**options)


def test_a_declaration_cannot_be_changed_afterwards() -> None:
    with pytest.raises(FrozenInstanceError):
        StepPolicy().pivot = True  # type: ignore[misc]


@pytest.mark.parametrize(
    ("options", "safety"),
    [
        ({}, Safety.PROTECTED),
        ({"idempotent": True}, Safety.IDEMPOTENT),
        ({"idempotent": timedelta(hours=1), "probe": probe}, Safety.IDEMPOTENT),
        ({"transactional": True}, Safety.TRANSACTIONAL),
        ({"probe": probe}, Safety.PROBE),
        ({"did_not_happen": Declined, "retry": RetryPolicy()}, Safety.PROTECTED),
    ],
)
def test_what_is_declared_says_what_makes_a_step_safe(options: dict[str, Any], safety: Safety) -> None:
    assert StepPolicy(**options).safety is safety


def test_windows_time_outs_and_settling_are_microseconds_with_their_defaults() -> None:
    assert StepPolicy().window == 0
    assert StepPolicy(idempotent=True).window == 24 * 3600 * SECOND
    assert StepPolicy(idempotent=timedelta(minutes=5)).window == 300 * SECOND
    assert StepPolicy().settle_us == 60 * SECOND
    assert StepPolicy(timeout=5).settle_us == StepPolicy(timeout=5).timeout_us == 5 * SECOND
    assert StepPolicy(timeout=5, settle=timedelta(seconds=2)).settle_us == 2 * SECOND


def test_retries_grow_by_their_coefficient_up_to_their_maximum() -> None:
    policy = RetryPolicy(initial_interval=timedelta(seconds=1), coefficient=3, maximum_interval=10)
    assert [policy.delay(attempt) for attempt in (1, 2, 3, 4, 1000, 10**9)] == [1, 3, 9, 10, 10, 10]


def test_jitter_only_ever_shortens() -> None:
    delays = [RetryPolicy(initial_interval=10, jitter=0.5).delay(1) for _ in range(200)]
    assert all(5 <= delay <= 10 for delay in delays)
    assert len(set(delays)) > 1


def test_attempts_are_counted_with_the_first_and_zero_is_without_end() -> None:
    assert [RetryPolicy(maximum_attempts=2).allows(n, ValueError()) for n in (1, 2)] == [True, False]
    assert RetryPolicy(maximum_attempts=0).allows(10**6, ValueError())


def test_non_retryable_errors_are_found_behind_wrappers() -> None:
    policy = RetryPolicy(non_retryable=(Declined,))
    assert policy.allows(1, ValueError())
    assert not policy.allows(1, Declined())
    assert not policy.allows(1, Retry(Declined()))


@pytest.mark.parametrize(
    ("options", "error", "unknown"),
    [
        ({}, ValueError(), True),
        ({}, TimeoutError(), True),
        ({}, ConnectionResetError(), True),
        ({}, ConnectionRefusedError(), True),
        ({"did_not_happen": NeverConnected}, ConnectionRefusedError(), False),
        ({"did_not_happen": NeverConnected}, socket.gaierror(), False),
        ({"did_not_happen": NeverConnected}, Retry(ConnectionRefusedError()), False),
        ({"did_not_happen": NeverConnected}, urllib.error.URLError(ConnectionRefusedError()), False),
        ({"did_not_happen": NeverConnected}, urllib.error.URLError("something else"), True),
        ({"did_not_happen": NeverConnected}, ConnectionResetError(), True),
        ({"did_not_happen": Declined}, Declined(), False),
        ({"did_not_happen": Declined}, Retry(Declined()), False),
        ({"did_not_happen": Exception, "maybe_happened": TimeoutError}, TimeoutError(), True),
        ({"maybe_happened": ConnectionRefusedError}, ConnectionRefusedError(), True),
        ({"transactional": True}, ValueError(), False),
    ],
    ids=repr,
)
def test_what_is_known_about_the_effect_of_an_error(options: dict[str, Any], error: Exception, unknown: bool) -> None:
    assert StepPolicy(**options).effect_unknown(error) is unknown


def test_what_wraps_a_refused_connection_is_looked_through() -> None:
    error = RuntimeError("the bank is down")
    error.__cause__ = ConnectionRefusedError()
    assert StepPolicy().effect_unknown(error)
    assert not StepPolicy(did_not_happen=NeverConnected).effect_unknown(error)


@pytest.mark.parametrize("outer", [TimeoutError, ConnectionResetError, BrokenPipeError, EOFError])
def test_a_missing_answer_is_not_explained_by_what_it_was_raised_from(outer: type[Exception]) -> None:
    """As where a body tries again itself: the first connection was refused, the second one was lost."""
    error = outer("no answer")
    error.__cause__ = ConnectionRefusedError()
    policy = StepPolicy(did_not_happen=(NeverConnected, Declined), idempotent=True)
    assert policy.effect_unknown(error)
    assert policy.effect_unknown(Retry(error))
    error.__cause__ = Declined()
    assert policy.effect_unknown(error)
    assert policy.may_retry(1, error)
    declined = Declined()
    declined.__cause__ = outer()
    assert not policy.effect_unknown(declined), "the outer one is declared"
    assert not StepPolicy(did_not_happen=outer).effect_unknown(error)


def test_several_tries_are_not_explained_by_the_last() -> None:
    retried = type("RetryError", (Exception,), {"__module__": "tenacity"})()
    retried.__cause__ = ConnectionRefusedError()
    assert StepPolicy(did_not_happen=NeverConnected).effect_unknown(retried)


def test_errors_of_libraries_that_need_not_be_installed_are_known_by_name() -> None:
    connect_timeout = type("ConnectTimeout", (Exception,), {"__module__": "requests.exceptions"})
    read_timeout = type("ReadTimeout", (Exception,), {"__module__": "requests.exceptions"})
    derived = type("OurTimeout", (connect_timeout,), {"__module__": "shop"})
    assert nothing_left(connect_timeout())
    assert nothing_left(derived())
    assert not nothing_left(read_timeout())


def test_causes_end_also_where_errors_go_round_in_a_circle() -> None:
    first, second = ValueError("first"), ValueError("second")
    first.__cause__, second.__cause__ = second, first
    assert list(causes(first)) == [first, second]


@pytest.mark.parametrize(
    ("options", "attempt", "error", "again"),
    [
        ({}, 1, ValueError(), False),
        ({"idempotent": True}, 1, ValueError(), True),
        ({"idempotent": True}, 3, ValueError(), False),
        ({"idempotent": True, "did_not_happen": Declined}, 1, Declined(), False),
        ({"idempotent": True, "did_not_happen": Declined, "retry": RetryPolicy()}, 1, Declined(), True),
        ({"transactional": True}, 1, ValueError(), True),
        ({"did_not_happen": Declined}, 1, Declined(), False),
        ({"did_not_happen": Declined, "retry": RetryPolicy(maximum_attempts=2)}, 1, Declined(), True),
    ],
)
def test_when_a_step_asks_for_another_attempt_by_itself(
    options: dict[str, Any], attempt: int, error: Exception, again: bool
) -> None:
    assert StepPolicy(**options).may_retry(attempt, error) is again


def test_the_journal_keeps_of_a_declaration_what_tools_need_without_its_code() -> None:
    assert StepPolicy().stored() == {}
    assert StepPolicy(idempotent=True, timeout=2, redact=("card",)).stored() == {
        "window": 86_400 * SECOND,
        "timeout": 2 * SECOND,
        "settle": 2 * SECOND,
        "redact": ["card"],
    }


def test_a_workflows_amount_is_one_of_its_attributes() -> None:
    assert WorkflowPolicy(attributes=("order",), amount="total").attributes == ("order", "total")
    assert WorkflowPolicy(attributes=("total",), amount="total").attributes == ("total",)
    with pytest.raises(DeclarationError, match=r"id='' must be a template such as 'order-\{order_id\}'"):
        WorkflowPolicy(id="")
    with pytest.raises(DeclarationError, match=r"id='order-\{' is no template .*: Single '\{' encountered"):
        WorkflowPolicy(id="order-{")


def test_a_template_is_filled_from_the_parameters_and_says_what_is_missing() -> None:
    assert template_fields("order-{order.id}", {"order": type("Order", (), {"id": 42})()}, "workflow f") == "order-42"
    with pytest.raises(DeclarationError, match=r"workflow f: the id template '\{customer\}' asks for 'customer', .*: order_id"):
        template_fields("{customer}", {"order_id": 42}, "workflow f")


@pytest.mark.parametrize("template", ["{order.none}", "{0}", "{order[x]}", "{order:zz}"])
def test_a_template_that_does_not_fit_is_a_declaration_error(template: str) -> None:
    with pytest.raises(DeclarationError):
        template_fields(template, {"order": 42}, "workflow f")


def test_verdicts_carry_their_evidence() -> None:
    assert happened("ch_1", evidence="found it") == Happened("ch_1", "found it")
    assert did_not_happen(evidence="nothing there") == DidNotHappen("nothing there")
    assert cannot_tell() == CannotTell("")


def test_declarations_about_one_object_are_joined_and_the_later_one_wins() -> None:
    kept, task = Declarations(), object()
    kept.add(task, step=StepPolicy(name="first"))
    kept.add(task, workflow=WorkflowPolicy(id="order-{order}"))
    kept.add(task, step=StepPolicy(name="second"))
    (entry,) = kept
    assert (entry.target, entry.step, entry.workflow) == (
        task,
        StepPolicy(name="second"),
        WorkflowPolicy(id="order-{order}"),
    )
    assert kept.generation == 3
    assert DECLARED is not kept
    assert builtins.id(task) in kept._entries


@pytest.mark.parametrize(("coefficient", "attempt"), [(10, 310), (4.0, 513), (1e300, 3), (2, 5000)])
def test_an_interval_that_outgrows_every_number_is_the_longest(coefficient: float, attempt: int) -> None:
    policy = RetryPolicy(coefficient=coefficient, maximum_attempts=0, maximum_interval=60)
    assert policy.delay(attempt) == 60
    assert RetryPolicy(initial_interval=0, coefficient=coefficient).delay(attempt) == 0


@pytest.mark.parametrize("name", ["n" * 256, "pay\0", "pay\ud800", "undo:pay"])
def test_a_name_that_the_journal_cannot_keep_is_refused(name: str) -> None:
    with pytest.raises(DeclarationError, match="name="):
        StepPolicy(name=name)
    with pytest.raises(DeclarationError, match="name="):
        WorkflowPolicy(name=name)
