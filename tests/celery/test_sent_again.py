"""A message that is sent again is the message: field by field, but for the few that say that it is sent again."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

import pytest
from celery import chain, chord
from celery.app.task import Context
from celery.worker.request import Request
from kombu.message import Message

from durable_adapter.celery.running import _adopted
from durable_adapter.model import STAMP, Kind, WorkflowRow, member_key, new_ref
from durable_adapter.runtime.calls import Call
from tests.celery.ledger import Ledger
from tests.celery.shop import app, chains, habits
from tests.celery.world import SOON, Runs, World

#: Fields that say who sent a message, and when: of one that is sent again they say it of the second time.
OF_THE_SENDING = {"headers.origin", "properties.delivery_tag"}


class Wire:
    """A queue that nobody serves, and the messages in it."""

    def __init__(self, world: World, order: str) -> None:
        self.queue = f"{world.queue}-{order}"
        self.connection = app.connection_for_read()

    def message(self) -> Message:
        """The one message there."""
        channel = self.connection.default_channel
        message = channel.basic_get(self.queue, no_ack=True)
        assert message is not None
        assert channel.basic_get(self.queue, no_ack=True) is None
        return message  # type: ignore[no-any-return]

    def take(self) -> dict[str, Any]:
        """Every field of the one message there, by its place."""
        return fields(self.message())


def fields(message: Message) -> dict[str, Any]:
    args, kwargs, embed = message.payload
    return dict(
        flat(
            {
                "headers": message.headers,
                "properties": message.properties,
                "content": [message.content_type, message.content_encoding],
                "args": args,
                "kwargs": kwargs,
                "embed": embed,
            }
        )
    )


def flat(value: Any, at: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from flat(inner, f"{at}.{key}" if at else key)
    else:
        yield at, value


@pytest.fixture
def wire(world: World, order: str) -> Iterator[Wire]:
    made = Wire(world, order)
    yield made
    made.connection.release()


def send_again(shop: Runs, run: WorkflowRow) -> None:
    steps = shop.steps(run)
    first = next(step for step in steps if step.kind is not Kind.UNMARKED)
    shop.binding.engine.send_step(run, first, steps)


def differing(original: dict[str, Any], again: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """The fields that differ, without those of the sending itself."""
    nothing = object()
    found = {
        field: (original.get(field, nothing), again.get(field, nothing))
        for field in original | again
        if original.get(field, nothing) != again.get(field, nothing) and field not in OF_THE_SENDING
    }
    expires, left = found.get("headers.expires"), found.get("properties.expiration")
    if expires is not None and abs((moment(expires[0]) - moment(expires[1])).total_seconds()) < 1:
        del found["headers.expires"]
    if left is not None and 0 < int(left[1]) <= int(left[0]):
        del found["properties.expiration"]  # of the same time, what is left of it
    return found


def moment(text: str) -> datetime:
    return datetime.fromisoformat(text)


OPTIONS: dict[str, dict[str, Any]] = {
    "nothing": {},
    "priority": {"priority": 3},
    "limits": {"time_limit": 90, "soft_time_limit": 60},
    "expires": {"expires": 3600},
    "replies": {"reply_to": "somebody", "correlation_id": "another-id"},
    "results": {"ignore_result": True},
    "names": {"shadow": "charge (shadow)", "argsrepr": "(...)", "kwargsrepr": "{...}"},
    "family": {"root_id": "root", "parent_id": "parent", "group_id": "group", "group_index": 2},
    "stamps": {"stamped_headers": ["tenant", "trace"], "tenant": "acme", "trace": ["t-1"]},
    "headers": {"headers": {"tenant": "acme", "n": 1}},
    "links": {"link": [chains.note.si("x")], "link_error": [chains.note.si("y").set(priority=1)]},
    "properties": {"delivery_mode": 1, "message_id": "m-1", "app_id": "shop", "type": "charge"},
    "compression": {"compression": "zlib"},
    "nesting": {"replaced_task_nesting": 1},
}


def body_of(wire: Wire, options: dict[str, Any]) -> dict[str, Any]:
    return {**options, "queue": wire.queue}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_a_start_that_is_sent_again_is_the_same_message(idle_shop: Runs, wire: Wire, order: str, options: dict[str, Any]) -> None:
    result = chains.reserve.apply_async((order,), **body_of(wire, options))
    original = wire.take()
    send_again(idle_shop, idle_shop.of(result))
    assert differing(original, wire.take()) == {}


def test_a_chain_that_is_sent_again_is_the_same_message(idle_shop: Runs, wire: Wire, order: str) -> None:
    tail = chains.note.s().set(priority=2, stamped_headers=["tenant"], tenant="acme", ignore_result=True)
    result = chain(chains.reserve.s(order), tail, chains.ship.s().set(time_limit=5)).apply_async(queue=wire.queue)
    original = wire.take()
    run = next(run for run in [idle_shop.of(result.parent.parent)])
    send_again(idle_shop, run)
    again = wire.take()
    found = differing(original, again)
    assert {field for field in found if not field.startswith("embed.chain")} == set()
    for before, after in zip(original["embed.chain"], again["embed.chain"], strict=True):
        assert before["options"] == after["options"]
        for part in ("task", "args", "kwargs", "immutable"):
            assert before[part] == after[part]


ADOPTED = {**OPTIONS, "chord": {"group_id": "group", "group_index": 1, "chord": chains.note.s().set(task_id="body", priority=4)}}


@pytest.mark.parametrize("options", ADOPTED.values(), ids=ADOPTED)
def test_an_adopted_message_that_is_sent_again_is_the_same_message_with_our_stamp(
    idle_shop: Runs, wire: Wire, order: str, options: dict[str, Any]
) -> None:
    """Sent by a producer without the plugin, adopted, and sent again: a chord member still names its chord."""
    idle_shop.binding.send_task(
        chains.reserve.name, (order,), task_id=f"adopted-{order}", **{"ignore_result": False, **body_of(wire, options)}
    )
    message = wire.message()
    original = fields(message)
    send_again(idle_shop, adopt(idle_shop, message))
    found = differing(original, wire.take())
    assert found.pop("headers.stamped_headers")[1] == [*(original["headers.stamped_headers"] or []), STAMP]
    assert found.pop(f"headers.stamps.{STAMP}")[1]
    found.pop("headers.stamps", None)  # where there was no stamp before
    assert found == {}


def adopt(shop: Runs, message: Message) -> WorkflowRow:
    """What a worker does with a message that names no run."""
    delivered = Request(message, app=app, hostname="test")
    embed = message.payload[2]
    request = Context(delivered.request_dict, args=delivered.args, kwargs=delivered.kwargs, **embed)
    ref = new_ref()
    call = Call(
        ref=ref, key=member_key(0, chains.reserve.name), name=chains.reserve.name,
        policy=shop.binding.registry.policy(chains.reserve.name), kind=Kind.STEP, args=tuple(request.args),
        kwargs=request.kwargs, body=lambda _: None,
    )  # fmt: skip
    run, steps = _adopted(shop.binding, chains.reserve, request, tuple(request.args), request.kwargs, call)
    shop.journal.starts.start(run, steps)
    found = shop.journal.reads.run(ref)
    assert found is not None
    return found


def test_the_body_of_a_chord_runs_although_a_member_that_was_adopted_is_sent_again(
    shop: Runs, ledger: Ledger, order: str, reinstall: Callable[..., contextlib.AbstractContextManager[Runs]]
) -> None:
    """The chord comes from a producer without the plugin; a member's process dies in its first attempt."""
    with reinstall(mode="off"):
        header = [habits.dies_once.s(order), habits.unmarked_note.si(order), habits.unmarked_note.si(order)]
        result = chord(header, habits.unmarked_end.si(order)).apply_async()
    assert result.get(timeout=SOON * 2) == order
    assert ledger.count(order, "dies") == 2
    assert ledger.count(order, "end") == 1
