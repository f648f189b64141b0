"""The marked functions of an engine, with their declarations. A binding's registry fills it; everything else reads it."""

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

#: The declaration of an unmarked compensation: a protected step.
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
        """Whether any step that this process knows, a task or a plain function, is transactional."""
        declared = (entry.step for entry in DECLARED if entry.step is not None)
        return any(policy.transactional for policy in (*self.steps.values(), *declared))

    def is_marked(self, name: str) -> bool:
        """Whether a task is durable here: a step, a workflow function, or a compensation of one."""
        return name in self.steps or name in self.workflows or name in self.compensations

    def policy(self, name: str) -> StepPolicy:
        """Returns a task's declaration as a step; protected where it is only a compensation."""
        return self.steps.get(name, PROTECTED)

    def declared(self, name: str) -> StepPolicy | None:
        """Returns a step's declaration, by its name in the journal; None where this process does not have it.

        A step in place may be a plain function, which is not registered with any engine.
        """
        if name in self.steps:
            return self.steps[name]
        for entry in reversed(list(DECLARED)):
            if entry.step is not None and name in (entry.step.name, _own_name(entry.target)):
                return entry.step
        return None

    def function(self, name: str) -> Callable[..., Any] | None:
        """Returns the function that a task runs, without our hooks; None where this process does not have it."""
        raise NotImplementedError

    def compensation_call(self, given: Any) -> dict[str, Any]:
        """Returns how a compensation is called, where it was declared with arguments of its own; else an empty dict."""
        return {}


class Named(Marked):
    """The marked functions of an engine that sends functions by their dotted names, as far as this process has seen them.

    A producer often does not import what it sends. A name whose module is not loaded here is looked up when it is run.
    """

    #: Functions that are marked by name, because their modules cannot be edited.
    named: ClassVar[Mapping[str, StepPolicy]] = {}

    def __init__(self) -> None:
        super().__init__()
        self._looked: set[str] = set()

    @property
    def has_transactional(self) -> bool:
        """Whether any step that this process knows is transactional, including those that are marked by name."""
        return super().has_transactional or any(policy.transactional for policy in self.named.values())

    def learn(self, name: str | None, given: Any = None) -> bool:
        """Reads the declaration of a function; returns whether it is durable.

        Args:
            name: the dotted name under which it is sent; None if it has none.
            given: the function itself, if the caller has it; else it is looked up in the loaded modules.

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
        """Refuses a function that was marked by name with parameters that it does not have."""
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
        """Like `Marked.declared`. A function that is sent by its name is imported for this."""
        self.learn(name)
        found = super().declared(name)
        if found is None and imported(name) is not None:
            self.learn(name)
            found = super().declared(name)
        return found

    def function(self, name: str) -> Callable[..., Any] | None:
        """Returns the function that is run under a name, without our wrapper; None where it cannot be imported here.

        A decorator above the mark stays: it has copied the mark, and wraps our wrapper.
        """
        found = loaded(name)
        if found is None:
            found = imported(name)
        inner = found.__wrapped__ if is_own_wrapper(found) else found
        return inner if callable(inner) else None


def compensation_name(policy: StepPolicy) -> str | None:
    """Returns the name of the task that undoes a step, which may be given as a task, a signature or a name."""
    given = policy.compensate
    if given is None or isinstance(given, str):
        return given
    name = getattr(given, "task", None) or getattr(given, "name", None)
    if name is None and isinstance(given, FunctionType):
        name = dotted_name(given)
    return str(name) if name else None


def _own_name(target: Any) -> str | None:
    """Returns the name of a plain function; None for a task, whose engine names it, and for a proxy, which is not evaluated."""
    return dotted_name(target) if type(target) is FunctionType else None


def refuse_a_name_in_a_class(name: str) -> None:
    """Refuses to mark a method by its name, if its module is loaded.

    Raises:
        DeclarationError: the name is in a class.
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
