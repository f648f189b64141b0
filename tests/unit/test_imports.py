"""`import durable_adapter` is cheap and touches nothing: no SQL, no queue library, no thread."""

import importlib
import json
import subprocess
import sys
from typing import Any

import pytest

HEAVY = {"alembic", "billiard", "celery", "click", "kombu", "redis", "rich", "rq", "sqlalchemy"}

LOOK_AROUND = """
import importlib, json, sys, threading
importlib.import_module(sys.argv[1])
loaded = sorted({name.partition(".")[0] for name in sys.modules})
ours = sorted(name for name in sys.modules if name.startswith("durable_adapter."))
print(json.dumps({"loaded": loaded, "ours": ours, "threads": threading.active_count()}))
"""


def after_importing(name: str) -> Any:
    """What a fresh interpreter says about itself after it has imported a module."""
    done = subprocess.run([sys.executable, "-c", LOOK_AROUND, name], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def after_import() -> Any:
    """What a fresh interpreter says about itself after `import durable_adapter`."""
    return after_importing("durable_adapter")


def test_importing_the_package_loads_neither_sqlalchemy_nor_a_queue_library(after_import: Any):
    assert HEAVY.isdisjoint(after_import["loaded"])


def test_importing_the_package_starts_no_thread(after_import: Any):
    assert after_import["threads"] == 1


def test_importing_the_celery_room_loads_neither_sqlalchemy_nor_celery():
    assert HEAVY.isdisjoint(after_importing("durable_adapter.celery")["loaded"])


def test_what_every_celery_command_imports_loads_neither_sqlalchemy_nor_a_binding_nor_the_journal():
    after = after_importing("durable_adapter.cli.plugin")
    assert {"alembic", "celery", "redis", "rich", "rq", "sqlalchemy"}.isdisjoint(after["loaded"])
    rooms = {name.split(".")[1] for name in after["ours"]}
    assert rooms == {"cli", "codec", "errors", "lazy", "model", "printable", "urls"}


@pytest.mark.parametrize(
    "package", ["durable_adapter", "durable_adapter.celery", "durable_adapter.reconcile", "durable_adapter.rq"]
)
def test_every_name_that_is_loaded_when_first_asked_for_is_there(package: str):
    module = importlib.import_module(package)
    assert set(module.__all__) <= set(dir(module))
    for name in module.__all__:
        assert getattr(module, name) is not None
    with pytest.raises(AttributeError, match=f"module '{package}' has no attribute 'nothing'"):
        _ = module.nothing
