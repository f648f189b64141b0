"""A kind of call is a row of traits and one class: "Adding a kind of call" in CONTRIBUTING.md, followed to the letter.

The kind of this test is a draw: a number that is drawn once, and that each replay of its function gets again.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pytest

import durable_adapter as durable
from durable_adapter import inline
from durable_adapter.current import FUNCTION
from durable_adapter.declare.policy import StepPolicy
from durable_adapter.model import Kind, StepRow, StepStatus, WorkflowStatus
from durable_adapter.model.kinds import KINDS
from durable_adapter.reconcile import look_for_trouble
from durable_adapter.runtime.calls import Call
from durable_adapter.runtime.scope import Place
from durable_adapter.runtime.wake import Wake

# 1. The row of traits.

DRAW = Kind("draw", in_place=True, claimable=True)

# 2. The file of the kind.

#: A draw that was interrupted may be made again: nobody has seen its number.
ONCE = StepPolicy(idempotent=True)


@dataclass(frozen=True, slots=True)
class Draw:
    """A number that is drawn once.

    Attributes:
        draws: draws it.
    """

    kind: ClassVar[Kind] = DRAW
    name: ClassVar[str] = "draw"
    draws: Callable[[], int]

    def given_key(self) -> str | None:
        """None: draws are told apart by their order."""
        return None

    def begin(self, wake: Wake, place: Place) -> int:
        """Draws it."""
        return self._run(wake, place)

    def replay(self, wake: Wake, place: Place, row: StepRow) -> int:
        """Hands back the number that was drawn."""
        return wake.value_of(row, ONCE) if row.status is StepStatus.SUCCEEDED else self._run(wake, place)  # type: ignore[no-any-return]

    def _run(self, wake: Wake, place: Place) -> int:
        def new_row() -> StepRow:
            return StepRow(
                ref=wake.ref, key=place.key, position=place.position, name=self.name, kind=self.kind,
                status=StepStatus.PLANNED, safety=ONCE.safety,
            )  # fmt: skip

        call = Call(
            ref=wake.ref, key=place.key, name=self.name, policy=ONCE, kind=self.kind, args=(), kwargs={},
            body=lambda _: self.draws(), completes_run=False, again=wake.function.again, new_row=new_row, row=place.row,
        )  # fmt: skip
        return wake.run(call)  # type: ignore[no-any-return]


def draw() -> int:
    """What a workflow function calls."""
    function = FUNCTION.get()
    assert function is not None
    return function.call(Draw(urn.draw))  # type: ignore[no-any-return]


# A workflow that uses it.


class Killed(BaseException):
    """The process ends here, as far as the runtime can tell."""


@dataclass
class Urn:
    """Where numbers are drawn from, and where the process is killed."""

    drawn: list[int] = field(default_factory=list)
    paid: list[int] = field(default_factory=list)
    killed_in: str = ""

    def draw(self) -> int:
        self.kill("draw")
        self.drawn.append(100 + len(self.drawn))
        return self.drawn[-1]

    def kill(self, where: str) -> None:
        if self.killed_in == where:
            self.killed_in = ""
            raise Killed


urn = Urn()


@durable.step(idempotent=True)
def pay(amount: int) -> None:
    urn.paid.append(amount)


@durable.workflow
def lottery() -> list[int]:
    numbers = [draw(), draw()]
    urn.kill("body")
    pay(sum(numbers))
    return numbers


@pytest.fixture
def url(tmp_path: Path, durable_template: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An empty journal; the urn is full, and the kind is in the table."""
    monkeypatch.setitem(KINDS, DRAW.name, DRAW)
    urn.__init__()  # type: ignore[misc]
    shutil.copy(durable_template, tmp_path / "journal.sqlite3")
    yield f"sqlite:///{tmp_path / 'journal.sqlite3'}"
    inline.uninstall()


def next_process(url: str) -> inline.Binding:
    """The process that is there after this one."""
    inline.uninstall()
    return inline.install(url, stale=1.0, beat=0.1, sweep_every=0.1, resend_after=0.2)


def steps_of(binding: inline.Binding) -> list[StepRow]:
    run = binding.journal.reads.latest("default", "lottery-1")
    assert run is not None
    return [s for s in binding.journal.reads.steps(run.ref) if s.kind is DRAW]


def go_on() -> Any:
    """Works until the lottery is over, and returns what it returned."""
    for _ in range(100):
        inline.work(seconds=0.1)
        if inline.handle("lottery-1").status not in (WorkflowStatus.RUNNING, WorkflowStatus.SUSPENDED):
            break
    return inline.handle("lottery-1").result()


def test_it_is_called_and_recorded(url: str) -> None:
    binding = next_process(url)
    assert inline.start("lottery-1", lottery).result() == [100, 101]
    assert [(s.key, s.position, s.status) for s in steps_of(binding)] == [
        ("draw#1", 1, StepStatus.SUCCEEDED),
        ("draw#2", 2, StepStatus.SUCCEEDED),
    ]
    assert look_for_trouble(binding.journal, namespace="default").findings == []


def test_a_replay_after_a_kill_gets_what_was_recorded(url: str) -> None:
    next_process(url)
    urn.killed_in = "body"
    with pytest.raises(Killed):
        inline.start("lottery-1", lottery)
    assert urn.drawn == [100, 101]
    assert urn.paid == []
    next_process(url)
    assert go_on() == [100, 101]
    assert urn.drawn == [100, 101], "nothing was drawn again"
    assert urn.paid == [201]


def test_one_that_was_interrupted_is_made_again_as_its_declaration_allows(url: str) -> None:
    binding = next_process(url)
    urn.killed_in = "draw"
    with pytest.raises(Killed):
        inline.start("lottery-1", lottery)
    assert [s.status for s in steps_of(binding)] == [StepStatus.BEGUN]
    binding = next_process(url)
    assert go_on() == [100, 101]
    assert [(s.key, s.attempt) for s in steps_of(binding)] == [("draw#1", 2), ("draw#2", 1)]
    assert look_for_trouble(binding.journal, namespace="default").findings == []


def test_a_release_without_it_leaves_its_run_alone(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    next_process(url)
    urn.killed_in = "body"
    with pytest.raises(Killed):
        inline.start("lottery-1", lottery)
    monkeypatch.delitem(KINDS, DRAW.name)
    next_process(url)
    inline.work(seconds=0.5)
    assert inline.handle("lottery-1").status is WorkflowStatus.RUNNING
    assert urn.paid == []
    monkeypatch.setitem(KINDS, DRAW.name, DRAW)
    next_process(url)
    assert go_on() == [100, 101]
