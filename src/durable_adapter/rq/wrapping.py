"""Functions that are marked by name, wrapped where they stand: so that a workflow function that calls one calls a step.

RQ sends and runs a function by its name, and a mark beside it is enough for that. A call in place goes to the attribute of
the module, and that is replaced by what `@durable.step` would have made of it, when its module is loaded or gets loaded.
What somebody took before with `from module import name` stays what it was.
"""

from __future__ import annotations

import functools
import importlib.machinery
import sys
from collections.abc import Callable, Mapping, Sequence
from types import FunctionType, ModuleType

from ..decorators import is_own_wrapper, wrapped
from ..policy import StepPolicy


class Wrapping:
    """The functions that this process has wrapped by name, and the finder that wraps those of modules that come later."""

    def __init__(self) -> None:
        self._wanted: Mapping[str, StepPolicy] = {}
        self._undo: dict[str, Callable[[], None]] = {}

    def wrap(self, named: Mapping[str, StepPolicy]) -> None:
        """Wraps what is there of the functions that are marked by name, and waits for the modules of the others."""
        self._wanted = named
        if self not in sys.meta_path:
            sys.meta_path.insert(0, self)
        for module in {name.rpartition(".")[0] for name in named}:
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
        for name, policy in self._wanted.items():
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
        if not any(name.rpartition(".")[0] == fullname for name in self._wanted):
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
