"""The formats of keys, ids and stamps are frozen: rows in journals and messages in brokers carry them for months.

A value that changes here makes every step that is under way a new step, and every idempotency key a new charge. Where a
change is meant, the old format has to be read as well.
"""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from durable_adapter.errors import UnknownStamp
from durable_adapter.model import (
    KEY_LENGTH,
    NAMESPACE,
    STAMP,
    STAMP_VERSION,
    attempt_name,
    bounded_key,
    call_key,
    derive,
    derive_ref,
    idempotency_key,
    is_member_key,
    make_stamp,
    member_key,
    new_ref,
    new_token,
    read_stamp,
    task_key,
    undo_key,
)

REF = "0123456789abcdef0123456789abcdef"


def test_a_canvas_members_key_is_its_place_and_its_name() -> None:
    assert member_key(0, "shop.charge") == "1:shop.charge"
    assert member_key(11, "shop.refund") == "12:shop.refund"
    assert is_member_key("12:shop.refund")
    assert not is_member_key(call_key("shop.charge", 1))


def test_in_an_older_revision_it_was_its_task_id_nesting_and_name() -> None:
    key = task_key("9b2f0b1c-5a3e-4c7d-8e21-0f6f3b1d2a4c", "shop.charge")
    assert key == "9b2f0b1c-5a3e-4c7d-8e21-0f6f3b1d2a4c/0/shop.charge"
    assert is_member_key(key)


def test_a_calls_key_is_its_name_and_occurrence_or_the_given_key() -> None:
    assert call_key("charge", 1) == "charge#1"
    assert call_key("charge", 12) == "charge#12"
    assert call_key("charge", 1, "item-7") == "charge@item-7"
    assert call_key("charge", 3, "") == "charge@"


def test_an_undos_key_is_made_from_that_of_the_step() -> None:
    assert undo_key("charge#1") == "undo:charge#1"


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        (("dispatch", REF, "ship#1"), "f0964bba-9b88-5911-8b70-74a86431db8c"),
        (("a", 1, None), "e57b5fad-372a-5cd6-8e81-4778e2913341"),
        (("ä", "日本"), "8dafc3bb-8e53-5671-bbd3-f825eeb1ef2a"),
        (("ab", "c"), "d5f3672d-cb35-5af0-8ea4-1527ecd59ac5"),
        (("a", "bc"), "d3dc41ac-ad41-5a89-bdfd-633ae0802873"),
    ],
)
def test_a_derived_id_is_frozen(parts: tuple[object, ...], expected: str) -> None:
    assert derive(*parts) == expected


def test_the_namespace_of_derived_ids_is_frozen() -> None:
    assert str(NAMESPACE) == "6f1d6c2e-7b0b-5f43-9a5c-0d0e5b1d4c11"


def test_a_derived_reference_is_frozen_and_fits_the_column() -> None:
    assert derive_ref("adopt", "task-1") == "455d44db46f95c2da4ea7473fe207b88"


@pytest.mark.parametrize(
    ("workflow", "run", "expected"),
    [
        ("order-42", 1, "3cacda46-08e2-5308-8622-40f7cd3a38c7"),
        ("order-42", 2, "e13f3fdd-d202-5c53-a283-8e604e4afa3f"),
        ("", 1, "eee5d9ca-145f-5bd0-beb1-c54ce1b9a4c7"),
    ],
)
def test_an_idempotency_key_is_frozen(workflow: str, run: int, expected: str) -> None:
    assert idempotency_key("default", workflow, run, REF, "charge#1") == expected


def test_an_idempotency_key_of_a_declared_workflow_does_not_depend_on_its_reference() -> None:
    first = idempotency_key("default", "order-42", 1, REF, "charge#1")
    assert first == idempotency_key("default", "order-42", 1, new_ref(), "charge#1")


def test_an_idempotency_key_is_the_same_in_every_process() -> None:
    code = (
        f"from durable_adapter.model import idempotency_key;print(idempotency_key('default', 'order-42', 1, {REF!r}, 'charge#1'))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "3cacda46-08e2-5308-8622-40f7cd3a38c7"


def test_a_stamp_is_frozen() -> None:
    assert (STAMP, STAMP_VERSION) == ("durable_run", "1")
    assert make_stamp(REF) == f"1:{REF}"
    assert make_stamp(REF, "charge#1") == f"1:{REF}:charge#1"


@pytest.mark.parametrize(
    ("stamp", "expected"),
    [
        (f"1:{REF}", (REF, None)),
        (f"1:{REF}:charge#1", (REF, "charge#1")),
        (f"1:{REF}:task/0/shop.charge:v2", (REF, "task/0/shop.charge:v2")),
        ([f"1:{REF}"], (REF, None)),
        ((f"1:{REF}:k", "1:other"), (REF, "k")),
        ([], None),
        (None, None),
        ([None], None),
    ],
)
def test_a_stamp_is_read_as_it_was_made(stamp: object, expected: tuple[str, str | None] | None) -> None:
    assert read_stamp(stamp) == expected


@pytest.mark.parametrize("stamp", [f"2:{REF}", f"1{REF}", "1:", "1:abc", "", 17, {"v": 3}])
def test_a_stamp_of_another_form_is_refused_and_not_taken_for_none(stamp: object) -> None:
    with pytest.raises(UnknownStamp, match="of a form that this version of durable-adapter does not know"):
        read_stamp(stamp)


def test_what_is_stamped_is_read_back() -> None:
    for key in (None, "charge#1", "undo:charge#1", "task/0/shop.charge", "a:b:c"):
        assert read_stamp(make_stamp(REF, key)) == (REF, key)


def test_a_key_that_is_too_long_keeps_its_beginning_and_the_hash_of_the_whole() -> None:
    assert KEY_LENGTH == 400
    assert bounded_key("x" * 400) == "x" * 400
    assert bounded_key("x" * 401) == "x" * 367 + "~257d2e9bd85ba7902e8b8accd833319a"
    assert bounded_key("x" * 401) != bounded_key("x" * 402)


def test_the_name_of_an_attempt_in_a_beat_is_frozen() -> None:
    assert attempt_name(REF, "charge #1", "00112233aabbccdd") == f"{REF} 00112233aabbccdd charge #1"
    assert attempt_name(REF, "charge#1", None) == f"{REF}  charge#1"


def test_new_references_and_tokens_fit_their_columns_and_references_sort_by_time() -> None:
    refs = [new_ref() for _ in range(100)]
    assert all(re.fullmatch(r"[0-9a-f]{12}7[0-9a-f]{19}", ref) for ref in refs)
    assert [ref[:12] for ref in refs] == sorted(ref[:12] for ref in refs)
    assert len(set(refs)) == len(refs)
    assert re.fullmatch(r"[0-9a-f]{16}", new_token())
