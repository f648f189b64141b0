"""The marked functions, by the dotted name under which RQ sends them; RQ stores it, and imports it in the worker.

A function may be marked by its name alone. RQ runs it by that name, and a mark beside it is enough for that. A call in place
goes to the attribute of the module, which is replaced by what `@durable.step` would have made of it, as soon as its module is
loaded. A reference that was taken before with `from module import name` stays what it was.
"""

from __future__ import annotations

import functools
import importlib.machinery
import sys
from collections.abc import Callable, Sequence
from types import FunctionType, ModuleType
from typing import Any

from ..declare.decorators import is_own_wrapper, wrapped
from ..declare.policy import StepPolicy
from ..errors import DeclarationError
from ..runtime.marked import Named, refuse_a_name_in_a_class

#: Functions that are marked by name, because nobody may edit them.
NAMED: dict[str, StepPolicy] = {}


def mark(name: str, **options: Any) -> None:
    """Marks a function as a step by its dotted name, where its module may not be edited.

    While the plugin is installed, the attribute of its module is wrapped, so that a call of it in a workflow function is a
    step as well. What was taken before with `from module import name` stays what it was.

    Args:
        name: as RQ stores it, such as `legacy.payments.charge`.
        **options: those of `durable.step`.

    Raises:
        DeclarationError: an option is unknown, options contradict each other, or the name is that of a method.
    """
    refuse_a_name_in_a_class(name)
    try:
        NAMED[name] = StepPolicy(**options, subject=f"mark({name!r})")
    except TypeError as error:
        raise DeclarationError(f"mark({name!r}): {error}") from error
    for wrapping in [finder for finder in sys.meta_path if isinstance(finder, Wrapping)]:
        wrapping.wrap()


class Registry(Named):
    """The marked functions, as far as this process has seen them."""

    named = NAMED


class Wrapping:
    """The functions that this process has wrapped by name, and the finder that wraps those of modules that come later."""

    def __init__(self) -> None:
        self._undo: dict[str, Callable[[], None]] = {}

    def wrap(self) -> None:
        """Wraps the functions that are marked by name and loaded, and waits for the modules of the others."""
        if self not in sys.meta_path:
            sys.meta_path.insert(0, self)
        for module in {name.rpartition(".")[0] for name in NAMED}:
            if module in sys.modules:
                self._wrap_in(sys.modules[module])

    def undo(self) -> None:
        """Puts every function back that nobody else has replaced since."""
        if self in sys.meta_path:
            sys.meta_path.remove(self)
        for undo in self._undo.values():
            undo()
        self._undo.clear()

    def _wrap_in(self, module: ModuleType) -> None:
        for name, policy in NAMED.items():
            owner, _, attribute = name.rpartition(".")
            found = vars(module).get(attribute)
            # What is decorated as a step has said itself what it is; anything but a function has no call to be replaced.
            if owner != module.__name__ or type(found) is not FunctionType or is_own_wrapper(found):
                continue
            self._replace(module, attribute, found, wrapped(found, policy), name)

    def _replace(self, module: ModuleType, attribute: str, found: FunctionType, made: FunctionType, name: str) -> None:
        setattr(module, attribute, made)

        def undo() -> None:
            if vars(module).get(attribute) is made:
                setattr(module, attribute, found)

        self._undo[name] = undo

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """The finder's part of an import: what the others find, with a look at the module once it is loaded."""
        if not any(name.rpartition(".")[0] == fullname for name in NAMED):
            return None
        for finder in sys.meta_path:
            if finder is self or not hasattr(finder, "find_spec"):
                continue
            spec = finder.find_spec(fullname, path, target)
            if spec is not None:
                self._look_when_loaded(spec)
                return spec
        return None

    def _look_when_loaded(self, spec: importlib.machinery.ModuleSpec) -> None:
        loader = spec.loader
        if loader is None or not hasattr(loader, "exec_module"):
            return
        load = loader.exec_module

        @functools.wraps(load)
        def exec_module(module: ModuleType) -> None:
            vars(loader).pop("exec_module", None)
            load(module)
            if self in sys.meta_path:
                self._wrap_in(module)

        loader.exec_module = exec_module  # type: ignore[method-assign]
