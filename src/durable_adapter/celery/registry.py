"""Which tasks of an app are marked, and how: declarations resolved against the app's own task objects.

Lazy proxies are resolved here, when installed and again when there are new declarations: never while decorating.
"""

from __future__ import annotations

from collections.abc import Callable
from types import FunctionType
from typing import TYPE_CHECKING, Any

from celery.exceptions import NotRegistered
from celery.local import PromiseProxy, Proxy

from ..declare.decorators import STEP_MARK, WORKFLOW_MARK
from ..declare.policy import StepPolicy, WorkflowPolicy
from ..declare.registry import DECLARED
from ..errors import DeclarationError
from ..runtime.marked import Marked, compensation_name
from .plans import original_run, signature_call
from .tasks import all_tasks, count_tasks, task_named

if TYPE_CHECKING:
    from celery import Celery
    from celery.app.task import Task


class Registry(Marked):
    """The marked tasks of one app, by name."""

    def __init__(self, app: Celery) -> None:
        super().__init__()
        self._app = app
        self._generation = -1
        self._seen = 0

    def function(self, name: str) -> Callable[..., Any] | None:
        """Returns the function that a task runs, below our hook; None where the app has no such task."""
        found: Callable[..., Any] | None = original_run(self._app, name) if task_named(self._app, name) is not None else None
        return found

    def compensation_call(self, given: Any) -> dict[str, Any]:
        """Returns how a compensation is to be called, where it was declared as a signature."""
        return signature_call(given)

    @property
    def is_stale(self) -> bool:
        """Whether there are declarations or tasks that were not looked at yet."""
        return self._generation != DECLARED.generation or self._seen != count_tasks(self._app)

    def refresh(self) -> list[Task]:
        """Looks at every declaration and every task; returns the marked tasks.

        Raises:
            DeclarationError: a compensation is no task, a declaration is about something that is no task, or it names a
                parameter that the task does not have.
        """
        generation = DECLARED.generation
        for entry in DECLARED:
            if type(entry.target) is FunctionType:
                # A function may be one that RQ sends, and its compensation another: that is seen when it is called here.
                undo = compensation_name(entry.step) if entry.step is not None else None
                if undo is not None and task_named(self._app, undo) is not None:
                    self.compensations.add(str(undo))
                continue
            task = self._task_of(entry.target)
            if task is None:
                continue
            if entry.step is not None:
                self.steps[entry.step.name or task.name] = entry.step
                if entry.step.name and entry.step.name != task.name:
                    self.steps[task.name] = self.steps.pop(entry.step.name)
            if entry.workflow is not None:
                self.workflows[task.name] = entry.workflow
        for name, task in all_tasks(self._app):
            function = getattr(task.run, "__func__", task.run)
            step = getattr(function, STEP_MARK, None)
            if isinstance(step, StepPolicy) and name not in self.steps:
                self.steps[name] = step
            function_policy = getattr(function, WORKFLOW_MARK, None)
            if isinstance(function_policy, WorkflowPolicy) and name not in self.workflows:
                self.workflows[name] = function_policy
        for name, policy in self.steps.items():
            self._check_compensation(name, policy)
            self._check_parameters(f"step {name}", name, policy)
        for name, workflow in self.workflows.items():
            self._check_parameters(f"workflow {name}", name, workflow)
        # Last: what is wrong is said again each time that somebody looks. Looking has made tasks of lazy proxies.
        self._generation, self._seen = generation, count_tasks(self._app)
        marked = [task_named(self._app, name) for name in sorted({*self.steps, *self.workflows, *self.compensations})]
        return [task for task in marked if task is not None]

    def _task_of(self, target: Any) -> Task | None:
        """The app's own task behind what was decorated; None where it belongs to another app."""
        if type(target) in (Proxy, PromiseProxy):
            try:
                target = target._get_current_object()
            except NotRegistered:
                return None  # a shared task that the current app does not have
        name = getattr(target, "name", None)
        if not isinstance(name, str) or not hasattr(target, "apply_async"):
            raise DeclarationError(
                f"durable.step or durable.workflow decorates {target!r}, which is neither a function nor a Celery task"
            )
        found: Task | None = task_named(self._app, name)
        return found

    def _check_parameters(self, who: str, name: str, policy: StepPolicy | WorkflowPolicy) -> None:
        """Raises where a declaration names parameters that its task does not have: only here both are known."""
        function = self.function(name)
        if function is not None:
            policy.check_parameters(who, function)

    def check_compensation(self, policy: StepPolicy) -> None:
        """Raises where a step that is called here could not be undone: its compensation is no task of this app."""
        self._check_compensation(policy.name or policy.subject, policy)

    def _check_compensation(self, name: str, policy: StepPolicy) -> None:
        given = policy.compensate
        if given is None:
            return
        if type(given) in (Proxy, PromiseProxy):
            given = given._get_current_object()
        known = compensation_name(policy) if type(given) is not FunctionType else None
        if known is None or task_named(self._app, known) is None:
            what = "a plain function" if callable(given) and known is None else f"{given!r}"
            raise DeclarationError(
                f"step {name}: compensate={what} is no task of this app. A compensation is sent to a worker like any task: "
                f"decorate it with @app.task, and give the task, its signature or its name."
            )
        self.compensations.add(known)
