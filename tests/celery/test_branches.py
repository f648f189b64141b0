"""Groups and chords: nothing is drawn from a generator that Celery would not draw, and one chord has one answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from celery import Celery, Signature, chain, chord, group

import durable_adapter as durable
from durable_adapter.celery import install, uninstall
from durable_adapter.errors import UnsupportedCanvas

pytestmark = pytest.mark.usefixtures("declarations")


class Bench:
    """An app that writes down, in one list, what it sends and what is drawn from generators."""

    def __init__(self, journal: str) -> None:
        self.happened: list[str] = []
        self.app = app = Celery("branches", broker="memory://", backend="cache+memory://", set_as_current=False)
        self.journal = journal

        @app.task(name="branches.plain", shared=False)
        def plain(*_: Any) -> None: ...

        @app.task(name="branches.marked", shared=False)
        def marked(*_: Any) -> None: ...

        self.plain, self.marked = plain, marked
        app.finalize()
        amqp = app.amqp
        create = amqp.create_task_message
        amqp.create_task_message = self.noting(create)  # type: ignore[method-assign]

    def noting(self, create: Callable[..., Any]) -> Callable[..., Any]:
        def create_task_message(task_id: str, name: str, args: Any = None, *rest: Any, **options: Any) -> Any:
            self.happened.append(f"sent {name.partition('.')[2]} {(args or ['?'])[0]}")
            return create(task_id, name, args, *rest, **options)

        return create_task_message

    def gives(self, *members: Signature) -> Iterator[Signature]:
        for number, member in enumerate(members):
            self.happened.append(f"drawn {number}")
            yield member

    def install(self, *, mark: bool) -> None:
        if mark:
            durable.step(self.marked)
        install(self.app, journal=self.journal)


@pytest.fixture
def bench(tmp_path: Any) -> Iterator[Bench]:
    made = Bench(f"sqlite:///{tmp_path}/nothing.db")
    yield made
    uninstall(made.app)
    made.app.close()


def lazily(bench: Bench, shape: str) -> Any:
    """A canvas with a generator in it, of unmarked tasks."""
    p = bench.plain
    members = bench.gives(*(p.si(n) for n in range(5)))
    return {
        "group": lambda: group(members),
        "chord": lambda: chord(members, p.si("body")),
        "called chord": lambda: chord(members),
        "group | body": lambda: group(members) | p.si("body"),
        "chain to group": lambda: chain(p.si("first"), group(members)),
        "chain to chord": lambda: chain(p.si("first"), group(members), p.si("body")),
        "nested": lambda: group(p.si("first"), group(members)),
        "body group": lambda: chord([p.si("a"), p.si("b")], group(members)),
    }[shape]()


SHAPES = ["group", "chord", "called chord", "group | body", "chain to group", "chain to chord", "nested", "body group"]


def publish(bench: Bench, shape: str) -> list[str]:
    canvas = lazily(bench, shape)
    canvas(bench.plain.si("body")) if shape == "called chord" else canvas.apply_async()
    happened = list(bench.happened)
    bench.happened.clear()
    return happened


@pytest.mark.parametrize("marked_elsewhere", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_generator_is_drawn_as_celery_draws_it(bench: Bench, shape: str, marked_elsewhere: bool) -> None:
    without = publish(bench, shape)
    assert "drawn 4" in without
    bench.install(mark=marked_elsewhere)
    assert publish(bench, shape) == without


def test_a_generator_that_ends_in_an_error_is_not_drawn_before_its_members_are_sent(bench: Bench) -> None:
    bench.install(mark=True)

    def members() -> Iterator[Signature]:
        for number in range(5):
            yield bench.plain.si(number)
        assert "sent plain 2" in bench.happened, "drawn too early"

    group(members()).apply_async()
    assert bench.happened == [f"sent plain {n}" for n in range(5)]


def answers(bench: Bench, header: list[Signature], body: Signature) -> dict[str, str]:
    """What each way to publish one chord comes to."""
    ways: dict[str, Callable[[], Any]] = {
        "called": lambda: chord(header)(body),
        "applied": lambda: chord(header, body).apply_async(),
        "delayed": lambda: chord(header, body).delay(),
        "joined": (group(header) | body).apply_async,
        "in a chain": lambda: chain(group(header), body).apply_async(),
        "behind a task": lambda: chain(bench.plain.si("first"), group(header), body).apply_async(),
        "with a generator": lambda: chord((one for one in header), body).apply_async(),
        "in a group": lambda: group(bench.plain.si("x"), chord(header, body)).apply_async(),
        "as a header": lambda: chord([bench.plain.si("x"), chord(header, body)], bench.plain.si("end")).apply_async(),
        "from a dictionary": lambda: Signature.from_dict(dict(chord(header, body)), app=bench.app).apply_async(),
    }
    found = {}
    for name, way in ways.items():
        bench.happened.clear()
        try:
            way()
            found[name] = "published"
        except UnsupportedCanvas as error:
            said = "Nothing was sent." in str(error) and not bench.happened
            found[name] = "refused" if said else f"refused after {bench.happened}: {error}"
    return found


def test_one_chord_is_refused_the_same_way_however_it_is_published(bench: Bench) -> None:
    bench.install(mark=True)
    p, m = bench.plain, bench.marked
    refused = [
        ([p.si(1), p.si(2)], m.si(3)),
        ([m.si(1), p.si(2)], p.si(3)),
        ([p.si(1), chain(p.si(2), m.si(3))], p.si(4)),
    ]
    for header, body in refused:
        assert set(answers(bench, header, body).values()) == {"refused"}
    assert set(answers(bench, [p.si(1), p.si(2)], p.si(3)).values()) == {"published"}


def test_a_durable_member_that_a_generator_gives_late_is_refused_and_not_sent(bench: Bench) -> None:
    bench.install(mark=True)
    members = (bench.marked.si(n) if n == 4 else bench.plain.si(n) for n in range(6))
    with pytest.raises(UnsupportedCanvas, match="4 members before it were"):
        group(members).apply_async()
    assert bench.happened == [f"sent plain {n}" for n in range(4)]


def test_what_a_generator_publishes_by_itself_is_no_member(bench: Bench) -> None:
    """A run of its own needs a journal, and this one is not there."""
    bench.install(mark=True)

    def members() -> Iterator[Signature]:
        bench.marked.delay("by itself")
        yield bench.plain.si(0)

    with pytest.raises(Exception, match=r"durable-adapter migrate"):
        group(members()).apply_async()


def test_eager_groups_and_chords_of_durable_tasks_run_as_their_apply_does(bench: Bench) -> None:
    ran: list[Any] = []

    @durable.step
    @bench.app.task(name="branches.eager", shared=False)
    def eager(number: Any) -> Any:
        ran.append(number)
        return number

    bench.app.conf.task_always_eager = True
    install(bench.app, journal=bench.journal)
    members = [eager.si(1), eager.si(2)]
    assert group(members).apply_async().get() == group(members).apply().get() == [1, 2]
    assert group(members)().get() == [1, 2]
    assert chord(members, eager.s()).apply_async().get() == [1, 2]
    assert chain(eager.si(1), group(members)).apply_async().get() == [1, 2]
    assert bench.happened == []
