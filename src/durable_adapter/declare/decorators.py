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

    Works above or below `@app.task` and `@shared_task`, and on plain functions that a workflow function calls.

    Args:
        target: the task or function, when used without arguments.
        idempotent: repeating is harmless because the provider remembers the key; True for 24 hours, or its window.
        transactional: the effect is SQL in the journal's own database, written through `durable.session()`.
        probe: a function of the step's own arguments that asks the provider: `durable.happened(value)`,
            `durable.did_not_happen()` or `durable.cannot_tell()`.
        did_not_happen: error types after which the effect certainly did not happen (a declined card).
        maybe_happened: error types after which it may have, although they look harmless.
        retry: when to try again; only where repeating is safe.
        timeout: seconds after which an attempt counts as in doubt.
        heartbeat: seconds for which the body may be silent: one that has not called `durable.heartbeat()` for that long is
            in doubt.
        settle: seconds after an attempt is over before a probe's "did not happen" counts; default the time-out, else 60.
        compensate: a task that undoes this step: called with its result, then its arguments.
        pivot: once this step succeeded there is no rollback, only forward.
        name: the step's name in the journal; default the task's or function's own.
        key: a template over the arguments, such as `"item-{sku}"`, for calls whose order may change.
        drift: what to do when a finished step is called with other arguments on replay: `hold` or `record`.
        ignore_arguments: parameters whose change does not count.
        redact: True, or the names of parameters, that no report may show even when asked for values.
        codec: how the result is written; `json` unless said otherwise.

    Raises:
        DeclarationError: options contradict each other; the message says which and what is accepted.

    Example:
        >>> @step(idempotent=True)
        ... def charge(order_id: str) -> str:
        ...     return f"ch_{order_id}"
        >>> charge("42")
        'ch_42'
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
    """Marks a task as a workflow function: it calls steps in its own order, and runs from the top on every wake.

    What the steps returned is handed back from the journal, so the code between them must be deterministic.

    Args:
        target: the task, when used without arguments.
        id: a template over the parameters that names the business operation: `"order-{order_id}"`.
        name: the name in lists; default the task's own.
        attributes: parameters to keep as searchable attributes.
        amount: the parameter that says how much money is at stake.

    Raises:
        DeclarationError: an option is unknown or has a value that is not accepted.
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
        """What calls a step here; None where this is a plain call."""
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
    """What a call of *function* gives to whoever makes it, where *value* is what it came to: a coroutine, if it is async."""
    return _known(value) if inspect.iscoroutinefunction(inspect.unwrap(function)) else value


async def _known(value: Any) -> Any:
    return value


def is_own_wrapper(function: Any) -> bool:
    """Whether this is what `@durable.step` made of a function, and not what a decorator above made of that."""
    return function is not None and getattr(function, _OWN, None) is function


def _subject(decorator: str, target: Any) -> str:
    """How an error names what was decorated, without touching a lazy proxy."""
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
