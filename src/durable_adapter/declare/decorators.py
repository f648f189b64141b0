"""`@durable.step` and `@durable.workflow`: declarations, and for a plain function the thin wrapper that looks like it.

Decorating touches no queue and no database. A task object (or a lazy proxy of one) is returned as it came: the
declaration is kept beside it. Until a binding is installed, a decorated function is the function that it was.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from datetime import timedelta
from types import FunctionType, MethodType
from typing import Any, Literal, ParamSpec, TypeVar, overload

from ..current import FUNCTION, OUTSIDE, STEP, called_plainly
from ..errors import DeclarationError
from ..loops import standing_still
from .policy import StepPolicy, WorkflowPolicy
from .registry import DECLARED
from .retry import RetryPolicy
from .verdicts import Verdict

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

#: The attribute by which a binding recognises a wrapped plain function.
STEP_MARK = "__durable_step__"
WORKFLOW_MARK = "__durable_workflow__"
#: The attribute by which our own wrapper knows itself: `functools.wraps` copies it to other wrappers, which are not it.
_OWN = "__durable_wrapper__"


@overload
def step(target: Callable[P, R], /) -> Callable[P, R]: ...
@overload
def step(
    *,
    idempotent: bool | timedelta = ...,
    transactional: bool = ...,
    probe: Callable[..., Verdict] | None = ...,
    did_not_happen: type[BaseException] | tuple[type[BaseException], ...] = ...,
    maybe_happened: type[BaseException] | tuple[type[BaseException], ...] = ...,
    retry: RetryPolicy | None = ...,
    timeout: float | timedelta | None = ...,
    heartbeat: float | timedelta | None = ...,
    settle: float | timedelta | None = ...,
    compensate: Any = ...,
    pivot: bool = ...,
    name: str | None = ...,
    key: str | None = ...,
    drift: Literal["hold", "record"] = ...,
    ignore_arguments: tuple[str, ...] = ...,
    redact: bool | tuple[str, ...] = ...,
    codec: str | None = ...,
) -> Callable[[T], T]: ...
def step(target: Any = None, /, **options: Any) -> Any:
    """Marks a task or a function as a step: one call in a workflow whose effect must not be repeated.

    Works above or below `@app.task` and `@shared_task`, and on plain functions that RQ or the inline binding runs or that a
    workflow function calls. Outside of a workflow a marked plain function is the function that it was.

    Spans of time are seconds (int or float) or a `timedelta`, from 0 to 100 years.

    Args:
        target: the task or function, where the decorator stands without parentheses.
        idempotent: repeating is harmless, because the provider remembers `durable.idempotency_key()` or because doing it twice
            changes nothing. True trusts the provider for 24 hours from the first attempt's claim, a `timedelta` above 0 for
            that long. Default False.
        transactional: the effect is SQL in the journal's own database, written through `durable.session()`. It and the step's
            outcome are one transaction. Excludes `idempotent`, `probe` and `heartbeat`. Default False.
        probe: a function of the step's own arguments that asks the provider. It returns `durable.happened(value)`,
            `durable.did_not_happen()` or `durable.cannot_tell()`. Default None: nobody can be asked. With `idempotent`,
            repeating goes before asking.
        did_not_happen: an error type, or a tuple of them, after which the effect certainly did not happen: a declined card.
            Default `()`: the effect of every error is unknown.
        maybe_happened: an error type, or a tuple of them, after which it may have happened; wins over all else that is known
            of the error. Default `()`.
        retry: a `RetryPolicy`: when to try again. Accepted with `idempotent`, `transactional`, `probe` or `did_not_happen`.
            Default None: a step that is safe to repeat has 3 attempts, after 1 and 2 seconds, unless the engine's own retry
            options allow fewer; a protected step has 1. An error of `did_not_happen` is not tried again without a policy.
        timeout: span of time after which an attempt is in doubt. Its body is not killed. Default None: no time-out.
        heartbeat: span of time, above 0, for which the body may be silent: an attempt that has not called
            `durable.heartbeat()` for that long is in doubt. Default None: the body need not call it.
        settle: span of time after the end of an attempt before a probe's "did not happen" counts: until then a request may
            still arrive. Default None: the `timeout`, or 60 seconds where there is none.
        compensate: what undoes this step in a rollback: a task, its signature, its name, or a function of a module. Called with
            the step's result, then the step's arguments; an immutable signature with its own only. Default None: nothing
            to undo.
        pivot: once this step has succeeded there is no rollback, only forward. Default False.
        name: the step's name in the journal, at most 255 characters. Default None: the task's name, or the function's module
            and qualified name.
        key: a template over the parameters, such as `"item-{sku}"`, for calls in a workflow function whose order may change.
            Default None: its name and how many calls of that name came before it.
        drift: what to do when a finished step is called with other arguments on replay: `"hold"` stops the workflow for a
            person, `"record"` takes no notice. Default `"hold"`.
        ignore_arguments: a tuple of parameters whose change is no drift. Default `()`.
        redact: True for all values, or a tuple of parameters, that no report shows, even when asked for values. Default False.
        codec: how the result is written: `"json"`, `"pickle"` or the name of a registered codec. Default None: `"json"`.

    Returns:
        A task as it was given; for a plain function one that looks like it.

    Raises:
        DeclarationError: an option is unknown, has a value that is not accepted or contradicts another, or the target is a
            method or a generator. The message names the option, the value and what is accepted.

    A marked function raises, inside of a workflow, its own error, also when that was recorded before (`StepFailed` in its place
    where the error's type is not loaded); `StepUndone` once a rollback has undone it; `SameKeyTwice` where two calls have one
    `key`.

    The examples run in a module, after `inline.install(journal=...)`; Celery and RQ take the same declarations.

    >>> import durable_adapter as durable
    >>> from durable_adapter import inline

    **Protected** is what a step is that declares nothing: it is run once, and held for a person where its outcome is lost.

    >>> @durable.step
    ... def ship(order_id):
    ...     return f"parcel-{order_id}"
    >>> inline.enqueue(ship, "42").result()
    'parcel-42'

    **Idempotent**: the provider remembers the key, so that an attempt whose outcome is lost is followed by another.

    >>> PAYMENTS = {}  # a provider
    >>> @durable.step(idempotent=True)
    ... def charge(order_id):
    ...     return PAYMENTS.setdefault(durable.idempotency_key(), f"ch-{order_id}")
    >>> inline.enqueue(charge, "42").result()
    'ch-42'

    **Transactional**: the effect and the record of it are committed together, or neither.

    >>> from sqlalchemy import text
    >>> @durable.step(transactional=True)
    ... def reserve(sku):
    ...     durable.session().execute(text("UPDATE stock SET free = free - 1 WHERE sku = :sku"), {"sku": sku})
    ...     return sku
    >>> inline.enqueue(reserve, "book").result()
    'book'

    **Probe**: the provider is asked what became of an attempt.

    >>> LABELS = {}  # a provider
    >>> def find_label(order_id):
    ...     return durable.happened(LABELS[order_id]) if order_id in LABELS else durable.did_not_happen()
    >>> @durable.step(probe=find_label)
    ... def print_label(order_id):
    ...     LABELS[order_id] = "label-1"
    ...     raise TimeoutError("the answer was lost")
    >>> inline.enqueue(print_label, "42").result()
    'label-1'

    **Compensation**: a step that fails for good has those before it undone, in reverse order.

    >>> @durable.step(idempotent=True)
    ... def cancel(room, guest):
    ...     print(f"cancelled {room} of {guest}")
    >>> @durable.step(compensate=cancel)
    ... def book(guest):
    ...     return "room-7"
    >>> @durable.step(did_not_happen=ValueError)
    ... def pay(cents):
    ...     raise ValueError("card declined")
    >>> str(inline.enqueue(inline.call(book, "Ann"), inline.call(pay, 900)).status)
    cancelled room-7 of Ann
    'compensated'

    **Retry**: errors that pass are met by further attempts.

    >>> ANSWERS = [ConnectionError("busy"), ConnectionError("busy"), "42 EUR"]
    >>> @durable.step(idempotent=True, retry=durable.RetryPolicy(initial_interval=0, maximum_attempts=5))
    ... def fetch_price(sku):
    ...     answer = ANSWERS.pop(0)
    ...     if isinstance(answer, Exception):
    ...         raise answer
    ...     return answer
    >>> inline.enqueue(fetch_price, "book").result()
    '42 EUR'

    **Time-out and heartbeat**: a body that hangs is noticed after 30 seconds, a long one after an hour, and the next attempt goes
    on where the last one stood.

    >>> @durable.step(idempotent=True, timeout=3600, heartbeat=30)
    ... def import_rows(rows):
    ...     for done in range(durable.last_heartbeat() or 0, rows):
    ...         durable.heartbeat(done + 1)
    ...     return durable.last_heartbeat()
    >>> inline.enqueue(import_rows, 3).result()
    3
    """

    _refuse_unknown(options, _STEP_OPTIONS, "durable.step")

    def mark(given: Any) -> Any:
        _refuse_a_method(given, "durable.step")
        who = _subject("durable.step", given)
        policy = StepPolicy(**options, subject=who)
        if type(given) is FunctionType:
            policy.check_parameters(who, given)
            made = wrapped(given, policy)
            DECLARED.add(made, step=policy)  # its compensation is a task, which a binding has to hook
            return made
        _refuse_what_is_no_task(given, "durable.step")
        DECLARED.add(given, step=policy)
        return given

    if target is not None:
        return mark(target)
    StepPolicy(**options, subject="durable.step")  # what contradicts itself is said on the decorator's own line
    return mark


@overload
def workflow(target: Callable[P, R], /) -> Callable[P, R]: ...
@overload
def workflow(
    *, id: str | None = ..., name: str | None = ..., attributes: tuple[str, ...] = ..., amount: str | None = ...
) -> Callable[[T], T]: ...
def workflow(target: Any = None, /, **options: Any) -> Any:
    """Marks a task or a function as a workflow function: it calls steps in its own order, and runs from the top on every wake.

    What the steps returned comes from the journal then, so that the code between them must be deterministic.

    Args:
        target: the task or function, where the decorator stands without parentheses.
        id: a template over the parameters that names the business operation, such as `"order-{order_id}"`: the same id twice
            is one run. Default None: each call is a run of its own.
        name: the name in lists, at most 255 characters. Default None: the task's name.
        attributes: a tuple of parameters that are kept as searchable attributes. Default `()`.
        amount: the parameter that says how much money is at stake; it becomes an attribute, and `reconcile` adds it up.
            Default None.

    Returns:
        The target as it was given.

    Raises:
        DeclarationError: an option is unknown or has a value that is not accepted, or the target is a method or a generator.

    Example:
        >>> import durable_adapter as durable
        >>> from durable_adapter import inline
        >>> @durable.step(idempotent=True)
        ... def charge(order_id, cents):
        ...     return f"ch-{order_id}"
        >>> @durable.workflow(id="order-{order_id}", amount="cents")
        ... def fulfil(order_id, cents):
        ...     return charge(order_id, cents)
        >>> inline.enqueue(fulfil, "42", 900).result()
        'ch-42'
        >>> inline.handle("order-42").run.attributes["cents"]
        900
    """

    _refuse_unknown(options, _WORKFLOW_OPTIONS, "durable.workflow")

    def mark(given: Any) -> Any:
        _refuse_a_method(given, "durable.workflow")
        who = _subject("durable.workflow", given)
        policy = WorkflowPolicy(**options, subject=who)
        if type(given) is FunctionType:
            policy.check_parameters(who, given)
            setattr(given, WORKFLOW_MARK, policy)
        else:
            _refuse_what_is_no_task(given, "durable.workflow")
            DECLARED.add(given, workflow=policy)
        return given

    if target is not None:
        return mark(target)
    WorkflowPolicy(**options)
    return mark


_STEP_OPTIONS = frozenset(inspect.signature(StepPolicy).parameters) - {"subject"}
_WORKFLOW_OPTIONS = frozenset(inspect.signature(WorkflowPolicy).parameters) - {"subject"}


def wrapped(function: FunctionType, policy: StepPolicy) -> Any:
    """A function that is a step where a workflow function calls it, and itself everywhere else."""

    name = policy.name or f"{function.__module__}.{function.__qualname__}"

    def caller_of_a_step() -> Any:
        """Returns what calls a step here; None where this is a plain call."""
        if STEP.get() is not None:
            return None
        caller = FUNCTION.get() or (OUTSIDE[-1] if OUTSIDE else None)
        if caller is None:
            called_plainly(name)
        return caller

    durable_step: Any
    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def durable_coroutine(*args: Any, **kwargs: Any) -> Any:
            caller = caller_of_a_step()
            if caller is None:
                return await function(*args, **kwargs)
            with standing_still(durable_step.__code__):
                return caller.call_step(policy, name, function, args, kwargs)

        durable_step = durable_coroutine
    else:

        @functools.wraps(function)
        def durable_function(*args: Any, **kwargs: Any) -> Any:
            caller = caller_of_a_step()
            if caller is None:
                return function(*args, **kwargs)
            return as_called(function, caller.call_step(policy, name, function, args, kwargs))

        durable_step = durable_function
    # Not every reader follows `__wrapped__`: Celery's check of arguments at `.delay()` does not.
    durable_step.__signature__ = inspect.signature(function)
    setattr(durable_step, STEP_MARK, policy)
    setattr(durable_step, _OWN, durable_step)
    return durable_step


def as_called(function: Callable[..., Any], value: Any) -> Any:
    """Returns *value* as a call of *function* returns it: as a coroutine, if the function is async."""
    return _known(value) if inspect.iscoroutinefunction(inspect.unwrap(function)) else value


async def _known(value: Any) -> Any:
    return value


def is_own_wrapper(function: Any) -> bool:
    """Whether this is what `@durable.step` made of a function, and not what a decorator above made of that."""
    return function is not None and getattr(function, _OWN, None) is function


def _subject(decorator: str, target: Any) -> str:
    """Returns how an error names what was decorated, without touching a lazy proxy."""
    if type(target) is FunctionType:
        return f"{decorator} on {target.__module__}.{target.__qualname__}"
    return decorator


def _refuse_unknown(options: dict[str, Any], known: frozenset[str], decorator: str) -> None:
    unknown = sorted(set(options) - known)
    if unknown:
        raise DeclarationError(f"{decorator} has no option {', '.join(unknown)}; it has {', '.join(sorted(known))}")


def is_of_a_class(function: FunctionType) -> bool:
    """Whether a function was defined in the body of a class: a method, static and class methods included."""
    owner = function.__qualname__.rpartition(".")[0]
    return bool(owner) and not owner.endswith("<locals>")


def no_methods(what: str, name: str) -> DeclarationError:
    """The error about a method that was marked.

    Args:
        what: the decorator, or the call, as its user wrote it.
        name: the method's dotted name.
    """
    return DeclarationError(
        f"{what}: {name} is a method, and methods cannot be marked, static and class methods included: the object that a method "
        "is called on is no part of what the journal knows a step by, so that one account could be handed another's outcome. "
        "Accepted are functions of a module. Move the body into one that takes what it needs (such as account_id) as arguments, "
        "mark that, and call it from the method."
    )


def _refuse_a_method(given: Any, decorator: str) -> None:
    function = given.__func__ if type(given) is MethodType else given
    if type(given) is MethodType or (type(given) is FunctionType and is_of_a_class(given)):
        raise no_methods(decorator, f"{function.__module__}.{function.__qualname__}")


def _refuse_what_is_no_task(given: Any, decorator: str) -> None:
    # Asked of its type alone, here and below: a lazy proxy stays as it is. `isinstance` would make the task of it, and Celery
    # read its configuration.
    if issubclass(type(given), (staticmethod, classmethod, property)):
        kind = type(given).__name__
        raise DeclarationError(
            f"{decorator} stands above @{kind}, and decorates no function there: put it below, next to the def"
        )
    if not callable(given):
        raise DeclarationError(
            f"{decorator}({given!r}): options are given by name, as in @{decorator}(name='charge'); "
            "without parentheses it decorates a task or a function"
        )
