"""What a run must show: each effect once, every saga succeeded, nothing reported, and every figure of it in one line."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from durable_adapter.model import StepStatus, WorkflowStatus
from tests.soak.sagas import Saga
from tests.soak.site import Site

#: How many examples of a fault are told.
EXAMPLES = 20


def wrong_effects(sagas: Iterable[Saga], effects: Iterable[tuple[str, str]]) -> list[str]:
    """Compares the effects there are with those that there must be: each once, and no other."""
    wanted = Counter(effect for saga in sagas for effect in saga.effects)
    found = Counter(effects)
    return [
        f"{reference}: {found[reference, kind]} {kind} instead of {wanted[reference, kind]}"
        for reference, kind in sorted({*wanted, *found})
        if found[reference, kind] != wanted[reference, kind]
    ]


def unfinished_rows(site: Site, sagas: list[Saga]) -> list[str]:
    """Says which workflows and steps of the journal did not succeed, and whether there are as many as were started."""
    runs = site.rows("SELECT ref, id, status FROM durable_workflow")
    wrong = [f"{run.id or run.ref}: the workflow is {run.status}" for run in runs if run.status != WorkflowStatus.SUCCEEDED]
    if len(runs) != len(sagas):
        wrong.insert(0, f"the journal has {len(runs)} workflows instead of {len(sagas)}")
    steps = site.rows("SELECT ref, key, status FROM durable_step")
    return wrong + [f"{s.ref} {s.key}: the step is {s.status}" for s in steps if s.status != StepStatus.SUCCEEDED]


def findings(site: Site) -> list[str]:
    """What `durable-adapter reconcile` reports."""
    code, printed = site.command(*site.engine.cli(site.redis.url), "reconcile", "--all")
    return [] if code == 0 else [f"reconcile ended with {code}:", *printed.splitlines()]


def judge(site: Site, sagas: list[Saga]) -> list[str]:
    """Returns everything that is not as promised; nothing if all is."""
    wrong = wrong_effects(sagas, site.effects()) + unfinished_rows(site, sagas)
    left_out = len(wrong) - EXAMPLES
    return wrong[:EXAMPLES] + ([f"and {left_out} more"] if left_out > 0 else []) + findings(site)
