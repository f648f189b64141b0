"""A canvas as the journal keeps it, and how any member is sent again."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest
from celery import Celery, chain, group, signature
from celery.canvas import Signature

import durable_adapter as durable
from durable_adapter.celery.plans import (
    delay_of,
    dispatched_message,
    member_of,
    message_for,
    queue_of,
    stamped,
    stamped_chain,
    tail_members,
    undo_message,
)
from durable_adapter.celery.registry import Registry
from durable_adapter.codec import JSON
from durable_adapter.declare.policy import WorkflowPolicy
from durable_adapter.declare.registry import DECLARED
from durable_adapter.errors import DeclarationError, MessageExpired, UnserialisableValue
from durable_adapter.model import SECOND, STAMP, Kind, Shape, StepRow, StepStatus, WorkflowRow, make_stamp
from durable_adapter.runtime.arguments import parameters_of
from durable_adapter.runtime.plans import Member, decode_plan, encode_member, plain, plan_fingerprint, rows_for
from durable_adapter.runtime.starting import template_id
from durable_adapter.runtime.values import encode

REF = "0123456789abcdef0123456789abcdef"
#: Routes members whose tasks no test looks at.
ROUTES = {"ship": {"queue": "parcels"}}
APP = Celery("members", broker="memory://", set_as_current=False)
APP.conf.task_routes = ROUTES


class Shop:
    """An app with a few tasks."""

    def __init__(self) -> None:
        self.app = app = Celery("plans", broker="memory://", set_as_current=False)

        @app.task(name="refund", shared=False)
        def refund(*args: Any, **kwargs: Any) -> None: ...

        @durable.step(compensate=refund)
        @app.task(name="charge", shared=False)
        def charge(order: str, amount: int = 1) -> None: ...

        @durable.step(compensate=refund.s("fixed"), pivot=True)
        @app.task(name="ship", shared=False)
        def ship(order: str) -> None: ...

        @app.task(name="note", shared=False)
        def note(order: str) -> None: ...

        @durable.workflow(id="order-{order}", attributes=("order",), amount="amount", name="fulfilment")
        @app.task(name="fulfil", shared=False)
        def fulfil(order: str, amount: int = 7) -> None: ...

        self.charge, self.ship, self.note, self.fulfil = charge, ship, note, fulfil
        app.conf.task_routes = ROUTES
        self.registry = Registry(app)
        self.registry.refresh()

    def rows(self, *members: Member, workflow_id: str | None = None) -> tuple[WorkflowRow, list[StepRow]]:
        """The rows of a run of these members."""
        return rows_for(
            self.registry,
            members,
            engine="celery",
            ref=REF,
            namespace="default",
            workflow_id=workflow_id,
            parent=None,
            code_version=None,
        )


@pytest.fixture
def shop() -> Iterator[Shop]:
    """The shop; what it declares is forgotten afterwards."""
    before = dict(DECLARED._entries)
    made = Shop()
    yield made
    DECLARED._entries.clear()
    DECLARED._entries.update(before)
    DECLARED.generation += 1
    made.app.close()


def member(name: str, *args: Any, task_id: str = "id", immutable: bool = False, **options: Any) -> Member:
    kwargs = options.pop("kwargs", {})
    return member_of(APP, name, args, kwargs, {"task_id": task_id, **options}, immutable=immutable)


def three() -> list[Member]:
    """A chain of three, the middle one unmarked."""
    return [
        member("charge", "42", task_id="a", immutable=True, kwargs={"amount": 3}),
        member("note", task_id="b", queue="notes"),
        member("ship", "extra", task_id="c"),
    ]


def test_a_run_is_a_row_for_the_workflow_and_one_for_each_member(shop: Shop) -> None:
    run, steps = shop.rows(*three())
    assert (run.shape, run.name, run.declared, run.id) == (Shape.CANVAS, "charge", False, f"c.{REF[-8:]}")
    assert [(s.position, s.key, s.kind, s.queue) for s in steps] == [
        (0, "1:charge", Kind.STEP, "celery"),
        (1, "2:note", Kind.UNMARKED, "notes"),
        (2, "3:ship", Kind.STEP, "parcels"),
    ]
    assert [s.compensation for s in steps] == ["refund", None, "refund"]
    assert [s.pivot for s in steps] == [False, False, True]
    assert [s.completes_run for s in steps] == [False, False, True]
    assert [(s.after, s.pending) for s in steps] == [([], 0), (["1:charge"], 1), (["2:note"], 1)]


def test_a_function_has_its_name_its_attributes_and_one_row(shop: Shop) -> None:
    run, (step,) = shop.rows(member("fulfil", "42", immutable=True), workflow_id="order-42")
    assert (run.shape, run.name, run.declared, run.id) == (Shape.FUNCTION, "fulfilment", True, "order-42")
    assert (run.attributes, run.amount) == ({"order": "42", "amount": 7}, "amount")
    assert (step.kind, step.options, step.completes_run) == (Kind.FUNCTION, {}, True)


def test_a_plan_keeps_what_another_publication_needs_and_nothing_else() -> None:
    options = {
        "queue": "q", "priority": 3, "headers": {"a": "b"}, "link": None, "producer": object(), "connection": object(),
        "chain": [object()], "task_type": object(), "router": object(),
    }  # fmt: skip
    kept = JSON.decode(encode_member(member("charge", "42", **options)))
    assert kept["options"] == {"queue": "q", "priority": 3, "headers": {"a": "b"}}
    assert (kept["task"], kept["id"], kept["args"]) == ("charge", "id", ["42"])


def test_a_plan_is_lossless_for_what_payment_code_passes() -> None:
    value = {"amount": Decimal("1.10"), "on": dt.date(2026, 1, 2), "pair": (1, 2)}
    kept = JSON.decode(encode_member(member("charge", value)))
    assert kept["args"] == [value]


def test_a_value_that_cannot_be_written_names_the_task_and_the_place() -> None:
    with pytest.raises(UnserialisableValue, match=r"task ship cannot be made durable .*\$\.args\[0\].*Nothing was sent"):
        encode_member(member("ship", object()))


def test_the_plan_of_an_older_revision_is_read_and_one_that_is_not_there_has_no_members() -> None:
    assert decode_plan(None) == decode_plan(b"") == []
    kept = [member("charge", "42").stored()]
    assert decode_plan(JSON.encode({"v": 1, "members": kept})) == kept


def test_expiry_in_seconds_is_kept_as_a_moment() -> None:
    before = dt.datetime.now(dt.UTC)
    kept = JSON.decode(encode_member(member("charge", expires=60)))
    moment = dt.datetime.fromisoformat(kept["options"]["expires"])
    assert dt.timedelta(seconds=59) < moment - before < dt.timedelta(seconds=61)


def test_the_fingerprint_ignores_ids_stamps_times_and_how_arguments_are_passed(shop: Shop) -> None:
    plain_start = plan_fingerprint(shop.registry, [member("charge", "42", task_id="one")])
    other_way = member("charge", task_id="two", countdown=5, immutable=True, kwargs={"order": "42", "amount": 1})
    assert plan_fingerprint(shop.registry, [other_way]) == plain_start
    assert plan_fingerprint(shop.registry, [member("charge", "42", kwargs={"amount": 2})]) != plain_start
    assert plan_fingerprint(shop.registry, [member("charge", "42"), member("ship")]) != plain_start


def test_celerys_own_kinds_of_data_become_plain_ones(shop: Shop) -> None:
    signature = shop.charge.s("42")
    found = plain({"sig": signature, "list": [signature], "tuple": (1, "a")})
    assert type(found["sig"]) is dict
    assert type(found["list"][0]) is dict
    assert found["tuple"] == (1, "a")


def test_members_behind_the_head_come_in_their_order() -> None:
    tail = [{"task": "last", "options": {"task_id": "c"}}, {"task": "next", "args": (1,), "options": {"task_id": "b"}}]
    assert [(m.name, m.task_id) for m in tail_members(APP, tail)] == [("next", "b"), ("last", "c")]
    assert tail_members(APP, None) == []


def test_stamping_keeps_other_stamps_and_leaves_the_callers_signature_alone(shop: Shop) -> None:
    given = {"stamped_headers": ["tenant"], "tenant": "acme"}
    assert stamped(given, REF, "k") == {"stamped_headers": ["tenant", STAMP], "tenant": "acme", STAMP: make_stamp(REF, "k")}
    assert stamped(stamped(given, REF, "k"), REF, "k") == stamped(given, REF, "k")
    assert given == {"stamped_headers": ["tenant"], "tenant": "acme"}
    signature = shop.ship.s()
    (copy,) = stamped_chain([signature], REF, ["2:ship"]) or []
    assert copy["options"][STAMP] == make_stamp(REF, "2:ship")
    assert STAMP not in signature["options"]
    assert stamped_chain([], REF, []) is None


def test_the_queue_is_the_options_the_routes_or_the_default(shop: Shop) -> None:
    assert queue_of(shop.app, "charge", [], {}, {"queue": "mine"}) == "mine"
    assert queue_of(shop.app, "ship", [], {}, {}) == "parcels"
    assert queue_of(shop.app, "charge", [], {}, {}) == "celery"
    shop.app.conf.task_routes = None
    assert queue_of(shop.app, "ship", [], {}, {}) == "celery"


@pytest.mark.parametrize(
    ("options", "seconds"),
    [
        ({}, 0),
        ({"countdown": 2.5}, 2.5),
        ({"countdown": -3}, 0),
        ({"eta": dt.datetime.now(dt.UTC) - dt.timedelta(hours=1)}, 0),
    ],
)
def test_the_delay_of_a_publication(options: dict[str, Any], seconds: float) -> None:
    assert delay_of(options) == int(seconds * SECOND)


def test_the_delay_until_an_eta() -> None:
    eta = dt.datetime.now(dt.UTC) + dt.timedelta(seconds=100)
    for given in (eta, eta.isoformat()):
        assert 99 * SECOND < delay_of({"eta": given}) <= 100 * SECOND


def test_a_member_is_sent_again_with_the_result_before_it_and_the_chain_behind_it(shop: Shop) -> None:
    run, steps = shop.rows(*three())
    steps[0].status, steps[0].outcome = StepStatus.SUCCEEDED, encode("charged")
    name, args, kwargs, options = message_for(shop.registry, run, steps[1], steps)
    assert (name, args, kwargs) == ("note", ["charged"], {})
    assert (options["task_id"], options["parent_id"], options["root_id"], options["queue"]) == ("b", "a", "a", "notes")
    (behind,) = options["chain"]
    assert (behind["task"], behind["args"], behind["options"]["task_id"]) == ("ship", ("extra",), "c")
    assert (options[STAMP], behind["options"][STAMP]) == (make_stamp(REF, "2:note"), make_stamp(REF, "3:ship"))


def test_the_head_is_sent_again_with_its_own_arguments(shop: Shop) -> None:
    run, steps = shop.rows(*three())
    steps[0].attempt = 2
    name, args, kwargs, options = message_for(shop.registry, run, steps[0], steps)
    assert (name, args, kwargs, options["task_id"], options["retries"]) == ("charge", ["42"], {"amount": 3}, "a", 2)
    assert [sig["task"] for sig in options["chain"]] == ["ship", "note"]
    assert "parent_id" not in options


def test_an_immutable_member_gets_no_result(shop: Shop) -> None:
    run, steps = shop.rows(member("charge", "42", task_id="a", immutable=True), member("ship", "7", task_id="b", immutable=True))
    steps[0].outcome = encode("charged")
    assert message_for(shop.registry, run, steps[1], steps)[1] == ["7"]


def test_a_compensation_is_called_as_a_link_is(shop: Shop) -> None:
    run, steps = shop.rows(*three())
    steps[0].outcome, steps[1].outcome, steps[2].outcome = encode("charged"), encode("noted"), encode("shipped")
    undo = StepRow(
        ref=REF,
        key="undo:x",
        position=0,
        name="refund",
        kind=Kind.COMPENSATION,
        status=StepStatus.PLANNED,
        task_id="u",
        target="x",
    )
    name, args, kwargs, options = undo_message(shop.registry, run, undo, steps[0], steps)
    assert (name, args, kwargs) == ("refund", ["charged", "42"], {"amount": 3})
    assert (options["task_id"], options[STAMP]) == ("u", make_stamp(REF, "undo:x"))
    assert undo_message(shop.registry, run, undo, steps[2], steps)[1] == ["shipped", "fixed"]


def test_a_chain_frozen_by_celery_becomes_a_plan(shop: Shop) -> None:
    """What Celery hands to `send_task` for a chain."""
    seen: dict[str, Any] = {}

    def send_task(name: str, args: Any, kwargs: Any, **options: Any) -> None:
        seen.update(name=name, args=args, kwargs=kwargs, options=options)

    shop.app.send_task = send_task
    chain(shop.charge.s("42"), shop.note.s(), shop.ship.s()).apply_async()
    members = [
        member_of(shop.app, seen["name"], seen["args"], seen["kwargs"], seen["options"], immutable=True),
        *tail_members(shop.app, seen["options"]["chain"]),
    ]
    assert [m.name for m in members] == ["charge", "note", "ship"]
    assert all(m.task_id for m in members)
    assert [JSON.decode(encode_member(m))["task"] for m in members] == ["charge", "note", "ship"]


@pytest.mark.parametrize("name", ["task_id", "queue", "name"])
def test_what_the_journal_has_no_room_for_is_refused_before_anything_is_sent(shop: Shop, name: str) -> None:
    given: dict[str, Any] = {"name": "charge", "task_id": "t", "queue": "q"} | {name: "x" * 256}
    member = Member(given["name"], ["42"], {}, task_id=given["task_id"], immutable=True, queue=given["queue"])
    run = {"engine": "celery", "ref": REF, "namespace": "default", "workflow_id": None, "parent": None, "code_version": None}
    with pytest.raises(DeclarationError, match="256 characters"):
        rows_for(shop.registry, [member], **run)


@pytest.mark.parametrize("given", ["", "x" * 201, "a\0b", "a\ud800"])
def test_an_id_that_a_template_makes_is_held_to_what_an_id_may_be(shop: Shop, given: str) -> None:
    registry = shop.registry
    registry.workflows["fulfil"] = WorkflowPolicy(id="{order}")
    with pytest.raises(DeclarationError, match="gives the id"):
        template_id(registry, "fulfil", (given,), {})
    assert template_id(registry, "fulfil", ("x" * 200,), {}) == "x" * 200


def test_a_keyword_that_a_positional_only_parameter_has_left_free_hides_nothing() -> None:
    def charge(amount: int, /, **more: int) -> None: ...

    one, three = (parameters_of(charge, (amount,), {"amount": 2}) for amount in (1, 3))
    assert one == {"amount": 1, "**amount": 2}
    assert one != three
    assert parameters_of(charge, (1,), {"tip": 2}) == {"amount": 1, "tip": 2}


def behind(app: Celery, *tail: dict[str, Any]) -> list[Member]:
    """The members behind a charge, as Celery keeps them: the last one first."""
    return [member("charge", "42", task_id="a", immutable=True), *tail_members(app, list(reversed(tail)))]


def test_what_follows_a_member_that_is_sent_again_waits_as_long_as_it_would_have(shop: Shop) -> None:
    eta = dt.datetime.now(dt.UTC) + dt.timedelta(days=3)
    later = {"task": "note", "options": {"task_id": "b", "countdown": 3600, "expires": 7200}}
    last = {"task": "ship", "options": {"task_id": "c", "eta": eta}}
    run, steps = shop.rows(*behind(shop.app, later, last))
    _, _, _, options = message_for(shop.registry, run, steps[0], steps)
    ship, note = options["chain"]
    assert (note["options"]["countdown"], note["options"]["expires"]) == (3600, 7200), "from when it is sent"
    assert ship["options"]["eta"] == eta.isoformat()
    steps[0].status, steps[0].outcome = StepStatus.SUCCEEDED, encode("charged")
    _, _, _, options = message_for(shop.registry, run, steps[1], steps)
    assert "countdown" not in options, "whoever sends it alone has waited for it"


@pytest.mark.parametrize("began", ["not", "it was tried", "it succeeded"])
def test_until_when_a_step_may_begin_is_said_of_its_first_attempt_only(shop: Shop, began: str) -> None:
    run, steps = shop.rows(member("charge", "42", task_id="a", immutable=True, expires=60))
    steps[0].attempt = int(began == "it was tried")
    steps[0].status = StepStatus.SUCCEEDED if began == "it succeeded" else StepStatus.PLANNED
    _, _, _, options = message_for(shop.registry, run, steps[0], steps)
    assert ("expires" in options) is (began == "not")


@pytest.mark.parametrize("expires", [-1, "2020-01-01T00:00:00", "2020-01-01T00:00:00+02:00"])
def test_a_step_that_never_began_is_not_sent_again_after_that(shop: Shop, expires: Any) -> None:
    run, steps = shop.rows(member("charge", "42", task_id="a", immutable=True, expires=expires))
    with pytest.raises(MessageExpired, match=r"charge of .* never began: its message expired at 20"):
        message_for(shop.registry, run, steps[0], steps)


def test_a_later_members_seconds_are_counted_from_the_end_before_it(shop: Shop) -> None:
    later = {"task": "ship", "options": {"task_id": "b", "expires": 600}, "immutable": True}
    run, steps = shop.rows(*behind(shop.app, later))
    run.created_at = 0
    now = int(dt.datetime.now(dt.UTC).timestamp() * SECOND)
    steps[0].status, steps[0].ended_at = StepStatus.SUCCEEDED, now - 500 * SECOND
    _, _, _, options = message_for(shop.registry, run, steps[1], steps)
    left = dt.datetime.fromisoformat(options["expires"]) - dt.datetime.now(dt.UTC)
    assert 90 < left.total_seconds() <= 100
    steps[0].ended_at = now - 700 * SECOND
    with pytest.raises(MessageExpired):
        message_for(shop.registry, run, steps[1], steps)
    steps[1].attempt = 1
    _, _, _, options = message_for(shop.registry, run, steps[0], steps)
    assert "expires" not in options["chain"][0]["options"], "it began before"


def test_a_function_that_has_called_anything_has_begun(shop: Shop) -> None:
    run, steps = shop.rows(member("fulfil", "42", task_id="a", immutable=True, expires=-1))
    with pytest.raises(MessageExpired):
        message_for(shop.registry, run, steps[0], steps)
    called = StepRow(ref=REF, key="sleep#1", position=1, name="sleep", kind=Kind.SLEEP, status=StepStatus.SUCCEEDED)
    assert "expires" not in message_for(shop.registry, run, steps[0], [*steps, called])[3]


def test_a_dispatched_step_and_a_compensation_expire_likewise(shop: Shop) -> None:
    run, steps = shop.rows(member("fulfil", "42", task_id="a", immutable=True))
    sent = StepRow(
        ref=REF, key="charge#1", position=1, name="charge", kind=Kind.DISPATCH, status=StepStatus.PLANNED, task_id="b",
        message=encode_member(member("charge", "42", immutable=True, expires=-1)),
    )  # fmt: skip
    with pytest.raises(MessageExpired):
        dispatched_message(run, sent, [*steps, sent])
    sent.attempt = 1
    assert "expires" not in dispatched_message(run, sent, [*steps, sent])[3]
    undo = StepRow(
        ref=REF, key="undo:x", position=0, name="refund", kind=Kind.COMPENSATION, status=StepStatus.PLANNED, task_id="u"
    )
    target = StepRow(
        ref=REF, key="x", position=0, name="charge", kind=Kind.STEP, status=StepStatus.SUCCEEDED, outcome=encode("charged"),
        options={"undo_call": {"args": [], "kwargs": {}, "immutable": True, "options": {"expires": "2020-01-01T00:00:00"}}},
    )  # fmt: skip
    assert "expires" not in undo_message(shop.registry, run, undo, target, steps)[3], "what is owed is never discarded"


def test_a_group_behind_a_step_is_sent_again_as_a_group(shop: Shop) -> None:
    """Without saying so, it would be a task that is called `celery.group`."""
    tail = [{**group([signature("note", task_id="n", app=shop.app)]), "options": {"task_id": "b"}}]
    members = [member("charge", "42", task_id="a", immutable=True), *tail_members(shop.app, tail)]
    run, steps = shop.rows(*members)
    (behind,) = message_for(shop.registry, run, steps[0], steps)[3]["chain"]
    assert "subtask_type" not in behind["options"]
    assert isinstance(Signature.from_dict(dict(behind)), group)
