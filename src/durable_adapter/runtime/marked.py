"""Which functions of an engine are marked, and how: what a binding's registry fills, and everybody else reads."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from inspect import isclass
from types import FunctionType
from typing import Any, ClassVar

from ..declare.decorators import STEP_MARK, WORKFLOW_MARK, is_own_wrapper, no_methods
from ..declare.policy import StepPolicy, WorkflowPolicy
from ..declare.registry import DECLARED
from ..errors import DeclarationError

#: How an unmarked compensation is treated: a protected step.
PROTECTED = StepPolicy()


class Marked:
    """The marked tasks of one engine in this process, by the names under which the engine sends them."""

    def __init__(self) -> None:
        self.steps: dict[str, StepPolicy] = {}
        self.workflows: dict[str, WorkflowPolicy] = {}
        self.compensations: set[str] = set()

    @property
    def marks_anything(self) -> bool:
        """Whether any task is durable here."""
        return bool(self.steps or self.workflows or self.compensations)

    @property
    def has_transactional(self) -> bool:
        """Whether a step that this process knows is transactional, be it a task or a plain function called in place."""
        declared = (entry.step for entry in DECLARED if entry.step is not None)
        return any(policy.transactional for policy in (*self.steps.values(), *declared))

    def is_marked(self, name: str) -> bool:
        """Whether a task is durable here: a step, a workflow function, or a compensation of one."""
        return name in self.steps or name in self.workflows or name in self.compensations

    def policy(self, name: str) -> StepPolicy:
        """A task's declaration as a step; protected where it only compensates."""
        return self.steps.get(name, PROTECTED)

    def declared(self, name: str) -> StepPolicy | None:
        """What the code says of a step, by the name that the step has in the journal; None where it is not known here.

        A step in place may be a plain function, which no engine knows.
        """
        if name in self.steps:
            return self.steps[name]
        for entry in reversed(list(DECLARED)):
            if entry.step is not None and name in (entry.step.name, _own_name(entry.target)):
                return entry.step
        return None

    def function(self, name: str) -> Callable[..., Any] | None:
        """What a task runs, below any hook; None where this process does not have it."""
        raise NotImplementedError

    def compensation_call(self, given: Any) -> dict[str, Any]:
        """How a compensation is to be called, where it was declared together with arguments of its own; else nothing."""
        return {}


class Named(Marked):
    """The marked functions of an engine that sends them by their dotted name, as far as this process has seen them.

    Whoever publishes often does not import what it sends: a name that is not loaded here is looked at when it is run.
    """

    #: Functions that are marked by name, because nobody may edit them.
    named: ClassVar[Mapping[str, StepPolicy]] = {}

    def __init__(self) -> None:
        super().__init__()
        self._looked: set[str] = set()

    @property
    def has_transactional(self) -> bool:
        """Whether a step that this process knows is transactional, those included that are marked by name."""
        return super().has_transactional or any(policy.transactional for policy in self.named.values())

    def learn(self, name: str | None, given: Any = None) -> bool:
        """Learns what a function declares, and says whether it is durable.

        Args:
            name: the dotted name under which it is sent; None for what has none.
            given: the function itself, where it is at hand; else it is found among what is loaded already.

        Raises:
            DeclarationError: it is a method, its compensation cannot be sent, or it was marked by name with parameters that
                it does not have.
        """
        if name is None:
            return False
        if name in self.named:
            refuse_a_name_in_a_class(name)
        if name not in self._looked or (name in self.named and name not in self.steps):
            functions = [given if callable(given) else None, loaded(name)]
            found = next((f for f in functions if hasattr(f, STEP_MARK) or hasattr(f, WORKFLOW_MARK)), None)
            if found is not None or name in self.named or functions[1] is not None:
                self._check_named(name, next(filter(None, functions), None))
                self._learn(name, found)
        return self.is_marked(name)

    def _check_named(self, name: str, function: Any) -> None:
        """Raises where a function that was marked by its name does not have the parameters which that mark names."""
        policy = self.named.get(name)
        if policy is not None and callable(function):
            policy.check_parameters(f"mark({name!r})", function)

    def _learn(self, name: str, function: Any) -> None:
        policy = getattr(function, STEP_MARK, None) or self.named.get(name)
        workflow = getattr(function, WORKFLOW_MARK, None)
        if isinstance(policy, StepPolicy):
            if getattr(function, "__self__", None) is not None:
                raise DeclarationError(
                    f"{function!r} is a method, and would be sent together with its object: a durable step must be "
                    "a function of a module. Move its body into one, and call that from the method."
                )
            self.steps[name] = policy
            self._learn_compensation(name, policy)
        if isinstance(workflow, WorkflowPolicy):
            self.workflows[name] = workflow
        self._looked.add(name)

    def _learn_compensation(self, name: str, policy: StepPolicy) -> None:
        if policy.compensate is None:
            return
        undo = compensation_name(policy)
        if undo is None:
            raise DeclarationError(
                f"step {name}: compensate={policy.compensate!r} is no function that can be sent: give a function of a module, "
                "or its dotted name."
            )
        self.compensations.add(undo)
        self.learn(undo, policy.compensate)

    def declared(self, name: str) -> StepPolicy | None:
        """As above; a function that is sent by its name is imported for this."""
        self.learn(name)
        found = super().declared(name)
        if found is None and imported(name) is not None:
            self.learn(name)
            found = super().declared(name)
        return found

    def function(self, name: str) -> Callable[..., Any] | None:
        """What is run under a name, below its own mark; None where it cannot be imported here.

        A decorator above the mark is part of it: that has copied the mark, and wraps our wrapper.
        """
        found = loaded(name)
        if found is None:
            found = imported(name)
        inner = found.__wrapped__ if is_own_wrapper(found) else found
        return inner if callable(inner) else None


def compensation_name(policy: StepPolicy) -> str | None:
    """The name of the task that undoes a step: of a task, a signature or a name as given."""
    given = policy.compensate
    if given is None or isinstance(given, str):
        return given
    name = getattr(given, "task", None) or getattr(given, "name", None)
    if name is None and isinstance(given, FunctionType):
        name = dotted_name(given)
    return str(name) if name else None


def _own_name(target: Any) -> str | None:
    """The name of a plain function; None of a task, which has one of its engine's, or of a proxy, which is not touched."""
    return dotted_name(target) if type(target) is FunctionType else None


def refuse_a_name_in_a_class(name: str) -> None:
    """Refuses to mark a method by its name, as far as what is loaded tells.

    Raises:
        DeclarationError: the name is that of something in a class.
    """
    if isclass(loaded(name.rpartition(".")[0])):
        raise no_methods(f"mark({name!r})", name)


def dotted_name(function: Callable[..., Any]) -> str:
    """The dotted name of a function of a module."""
    return f"{function.__module__}.{function.__qualname__}"


def loaded(name: str) -> Any:
    """What a dotted name names, if its module is loaded; nothing is imported for this."""
    module, _, rest = name.rpartition(".")
    while module:
        if module in sys.modules:
            found: Any = sys.modules[module]
            for part in rest.split("."):
                found = getattr(found, part, None)
            return found
        module, _, head = module.rpartition(".")
        rest = f"{head}.{rest}"
    return None


def imported(name: str) -> Any:
    """What a dotted name names, with its module imported; None where there is no such thing."""
    module = name
    while module := module.rpartition(".")[0]:
        try:
            import_module(module)
        except (ImportError, ValueError):
            continue
        return loaded(name)
    return None
