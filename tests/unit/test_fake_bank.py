"""The fake bank does what it is told, once per key, and misbehaves only as told: the crash tests rest on this."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import legacy_sidekiq_style
import pytest
from legacy_sidekiq_style import client as bank_client
from legacy_sidekiq_style.bank import FakeBank
from legacy_sidekiq_style.client import (
    BankClient,
    BankDown,
    BankError,
    BankHungUp,
    BankTimeout,
    CardDeclined,
    Entry,
    InsufficientFunds,
    KeyReused,
    OutOfStock,
    Refused,
)
from legacy_sidekiq_style.control import BankControl, ControlError, When

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture
def bank(tmp_path: Path) -> Iterator[FakeBank]:
    with FakeBank(tmp_path / "bank.sqlite3") as bank:
        yield bank


@pytest.fixture
def client(bank: FakeBank) -> BankClient:
    return BankClient(bank.url, timeout=10)


@pytest.fixture
def control(bank: FakeBank) -> BankControl:
    return BankControl(bank.url)


@pytest.fixture
def background() -> Iterator[Callable[..., Future[Entry]]]:
    with ThreadPoolExecutor(8) as pool:
        yield pool.submit


def test_a_repeated_charge_is_a_second_row(client: BankClient, control: BankControl) -> None:
    first = client.charge("order-1", "4242", 500)
    second = client.charge("order-1", "4242", 500)

    assert first.id != second.id
    assert control.counts("order-1")["charges"] == 2
    assert control.ledger("order-1")["sums"]["charges"] == 1000


def test_a_repeated_charge_with_the_same_key_is_the_first_row(client: BankClient, control: BankControl) -> None:
    first = client.charge("order-1", "4242", 500, key="k")
    second = client.charge("order-1", "4242", 500, key="k")

    assert (second.id, second.replayed) == (first.id, True)
    assert control.counts()["charges"] == 1


def test_the_same_key_with_another_request_is_refused(client: BankClient, control: BankControl) -> None:
    client.charge("order-1", "4242", 500, key="k")

    with pytest.raises(KeyReused, match="'k' came before"):
        client.charge("order-1", "4242", 700, key="k")
    assert control.counts()["charges"] == 1


def test_the_same_key_serves_two_kinds(client: BankClient, control: BankControl) -> None:
    client.charge("order-1", "4242", 500, key="k")
    client.mail("order-1", "ada@example.com", "hello", key="k")

    assert (control.counts()["charges"], control.counts()["mails"]) == (1, 1)


def test_two_equal_keys_at_once_give_one_row(
    client: BankClient, control: BankControl, background: Callable[..., Future[Entry]]
) -> None:
    gate = control.gate("charges", "before")
    answers = [background(client.charge, "order-1", "4242", 500, key="k") for _ in range(8)]
    gate.arrived(8)
    gate.release()

    assert len({answer.result().id for answer in answers}) == 1
    assert sorted(answer.result().replayed for answer in answers) == [False] + [True] * 7
    assert control.counts()["charges"] == 1


def test_many_charges_at_once_all_count(
    client: BankClient, control: BankControl, background: Callable[..., Future[Entry]]
) -> None:
    control.open_account("ada", "USD", 10_000)
    answers = [background(client.debit, f"tx-{number}", "ada", 10) for number in range(40)]

    assert len({answer.result().id for answer in answers}) == 40
    assert client.balance("ada") == 10_000 - 400


def test_every_kind_can_be_asked_whether_it_happened(client: BankClient) -> None:
    done = client.ship("order-1", {"cup": 2}, key="ship-1")

    assert [entry.id for entry in client.find("shipments", reference="order-1")] == [done.id]
    assert [entry.id for entry in client.find("shipments", key="ship-1")] == [done.id]
    assert client.find("shipments", reference="order-2") == []
    assert client.find("mails", reference="order-1") == []


def test_one_row_can_be_read_by_its_id(client: BankClient, control: BankControl) -> None:
    done = client.charge("order-1", "4242", 500)

    assert control.call("GET", f"/charges/{done.id}")["details"] == {"card": "4242", "amount": 500}
    with pytest.raises(ControlError, match="no 'charges-99'"):
        control.call("GET", "/charges/charges-99")


def test_the_ledger_is_filtered_by_reference_prefix_and_kind(client: BankClient, control: BankControl) -> None:
    for reference in ("order-1", "order-10", "order_1", "tx-1"):
        client.charge(reference, "4242", 1)
    client.mail("order-1", "ada@example.com", "hello")

    assert control.ledger()["counts"]["charges"] == 4
    assert control.counts("order-1")["charges"] == 1
    assert control.counts(prefix="order-1")["charges"] == 2
    assert control.counts(prefix="order_")["charges"] == 1
    assert [row["kind"] for row in control.ledger("order-1", kind="mails")["rows"]] == ["mails"]


def test_money_and_goods_move_and_run_out(client: BankClient, control: BankControl) -> None:
    control.open_account("ada", "USD", 100)
    control.fill_shelf("cup", 3)
    client.debit("tx-1", "ada", 80)
    client.credit("tx-1", "ada", 5)
    client.take_stock("order-1", "cup", 2)

    assert (client.balance("ada"), control.stock("cup")) == (25, 1)
    with pytest.raises(InsufficientFunds):
        client.debit("tx-2", "ada", 26)
    with pytest.raises(OutOfStock):
        client.take_stock("order-2", "cup", 2)
    assert (client.balance("ada"), control.stock("cup")) == (25, 1)
    assert control.counts("tx-2")["debits"] == 0


def test_a_rate_moves_at_each_request_unless_the_key_is_known(client: BankClient) -> None:
    first = client.quote("fx-1", "USD/EUR", key="k")

    assert client.quote("fx-1", "USD/EUR") > first
    assert client.quote("fx-1", "USD/EUR", key="k") == first == Decimal("0.9200")


@pytest.mark.parametrize(
    ("details", "message"),
    [
        ({}, "'amount' is missing"),
        ({"amount": 1.5}, "positive whole number of minor units"),
        ({"amount": True}, "positive whole number of minor units"),
        ({"amount": 0}, "positive whole number of minor units"),
    ],
)
def test_a_request_that_makes_no_sense_is_refused_with_its_reason(
    client: BankClient, control: BankControl, details: dict[str, Any], message: str
) -> None:
    with pytest.raises(Refused, match=message):
        client.do("charges", "order-1", **details)
    assert control.counts()["charges"] == 0


def test_the_ledger_survives_the_bank(tmp_path: Path) -> None:
    with FakeBank(tmp_path / "bank.sqlite3") as bank:
        BankClient(bank.url).charge("order-1", "4242", 500, key="k")

    with FakeBank(tmp_path / "bank.sqlite3") as bank:
        assert BankClient(bank.url).charge("order-1", "4242", 500, key="k").replayed


def test_a_declined_charge_leaves_no_row(client: BankClient, control: BankControl) -> None:
    control.rule("charges", "decline", times=1)

    with pytest.raises(CardDeclined):
        client.charge("order-1", "4242", 500)
    assert control.counts()["charges"] == 0
    assert client.charge("order-1", "4242", 500).id


def test_it_fails_so_many_times_and_then_works(client: BankClient, control: BankControl) -> None:
    control.rule("charges", "fail", times=2, skip=1)
    client.charge("order-1", "4242", 1)

    for _ in range(2):
        with pytest.raises(BankError, match="500"):
            client.charge("order-1", "4242", 1)
    client.charge("order-1", "4242", 1)
    assert control.counts()["charges"] == 2


@pytest.mark.parametrize(("when", "rows"), [("before", 0), ("after", 1)])
def test_it_hangs_up_before_or_after_the_work(client: BankClient, control: BankControl, when: When, rows: int) -> None:
    control.rule("charges", "drop", when, times=1)

    with pytest.raises(BankHungUp):
        client.charge("order-1", "4242", 500)
    assert control.counts()["charges"] == rows


@pytest.mark.parametrize(("when", "rows"), [("before", 0), ("after", 1)])
def test_it_answers_with_an_error_before_or_after_the_work(
    client: BankClient, control: BankControl, when: When, rows: int
) -> None:
    control.rule("charges", "fail", when, times=1)

    with pytest.raises(BankError):
        client.charge("order-1", "4242", 500)
    assert control.counts()["charges"] == rows


def test_it_does_the_work_and_answers_after_the_time_out(bank: FakeBank, control: BankControl) -> None:
    control.rule("charges", "slow", "after", seconds=30, times=1)

    with pytest.raises(BankTimeout):
        BankClient(bank.url, timeout=0.2).charge("order-1", "4242", 500)
    assert control.counts()["charges"] == 1


def test_a_bank_that_is_not_there_says_that_nothing_left() -> None:
    with pytest.raises(BankDown) as caught:
        BankClient("http://127.0.0.1:1").charge("order-1", "4242", 500)
    assert isinstance(caught.value.__cause__, ConnectionRefusedError)


def test_the_question_whether_it_happened_can_misbehave_too(client: BankClient, control: BankControl) -> None:
    client.charge("order-1", "4242", 500)
    control.rule("find charges", "fail", times=1)

    with pytest.raises(BankError):
        client.find("charges", reference="order-1")
    assert len(client.find("charges", reference="order-1")) == 1


def test_a_rule_acts_on_its_own_operation_and_reference_only(client: BankClient, control: BankControl) -> None:
    control.rule("charges", "decline", reference="order-1")

    client.charge("order-2", "4242", 500)
    client.mail("order-1", "ada@example.com", "hello")
    with pytest.raises(CardDeclined):
        client.charge("order-1", "4242", 500)


def test_a_rule_for_every_kind_leaves_questions_alone(client: BankClient, control: BankControl) -> None:
    control.rule("*", "fail")

    with pytest.raises(BankError):
        client.mail("order-1", "ada@example.com", "hello")
    assert client.find("mails") == []


def test_after_behave_no_rule_is_left(client: BankClient, control: BankControl) -> None:
    control.rule("charges", "decline")
    control.behave()

    assert client.charge("order-1", "4242", 500).id
    assert control.call("GET", "/admin/rules") == {"rules": []}


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (("charge", "fail"), "operation='charge' is none of"),
        (("charges", "explode"), "do='explode' is none of"),
        (("charges", "fail", "during"), "when='during' is none of"),
        (("charges", "decline", "after"), "cannot come after the effect"),
    ],
)
def test_a_rule_that_makes_no_sense_is_refused_with_its_reason(control: BankControl, spec: tuple[str, ...], message: str) -> None:
    with pytest.raises(ControlError, match=message):
        control.rule(*spec)  # type: ignore[arg-type]


def test_a_rule_with_an_unknown_option_is_refused(control: BankControl) -> None:
    with pytest.raises(ControlError, match="minutes"):
        control.rule("charges", "slow", minutes=5)


def test_a_gate_before_the_effect_holds_the_effect_back(
    client: BankClient, control: BankControl, background: Callable[..., Future[Entry]]
) -> None:
    gate = control.gate("charges", "before")
    answer = background(client.charge, "order-1", "4242", 500)
    visit = gate.arrived()

    assert (visit["operation"], visit["reference"], visit["pid"]) == ("charges", "order-1", os.getpid())
    assert control.counts()["charges"] == 0
    gate.release()
    assert answer.result().id
    assert control.counts()["charges"] == 1


def test_a_gate_after_the_effect_holds_only_the_answer_back(
    client: BankClient, control: BankControl, background: Callable[..., Future[Entry]]
) -> None:
    gate = control.gate("charges", "after")
    answer = background(client.charge, "order-1", "4242", 500)
    gate.arrived()

    assert control.counts()["charges"] == 1
    assert not answer.done()
    gate.release()
    assert answer.result().id


def test_what_waits_before_the_effect_can_be_dropped_without_it(
    client: BankClient, control: BankControl, background: Callable[..., Future[Entry]]
) -> None:
    gate = control.gate("charges", "before")
    answer = background(client.charge, "order-1", "4242", 500)
    gate.arrived()
    gate.release(then="drop")

    with pytest.raises(BankHungUp):
        answer.result()
    assert control.counts()["charges"] == 0


def test_a_released_gate_stays_open(client: BankClient, control: BankControl) -> None:
    gate = control.gate("charges")
    gate.release()

    assert client.charge("order-1", "4242", 500).id
    assert gate.state()["hits"] == 0


def test_a_gate_for_one_request_lets_the_next_pass(
    client: BankClient, control: BankControl, background: Callable[..., Future[Entry]]
) -> None:
    gate = control.gate("charges", "before", times=1)
    late = background(client.charge, "order-1", "4242", 500, key="k")
    gate.arrived()
    early = client.charge("order-1", "4242", 500, key="k")
    gate.release()

    assert (late.result().id, late.result().replayed) == (early.id, True)


def test_the_work_is_done_for_a_client_that_was_killed_meanwhile(bank: FakeBank, control: BankControl) -> None:
    gate = control.gate("charges", "before")
    code = "from legacy_sidekiq_style.client import BankClient; BankClient().charge('order-1', '4242', 500)"
    process = subprocess.Popen([sys.executable, "-c", code], env=_environment(FAKE_BANK_URL=bank.url))
    visit = gate.arrived()
    assert visit["pid"] == process.pid

    process.kill()
    process.wait()
    gate.release()
    until = time.monotonic() + 10
    while not control.counts()["charges"] and time.monotonic() < until:
        time.sleep(0.01)
    assert control.counts()["charges"] == 1


def test_a_gate_that_nobody_comes_to_is_a_time_out(control: BankControl) -> None:
    with pytest.raises(TimeoutError, match="0 of 1 requests"):
        control.gate("charges").arrived(timeout=0.05)


def test_a_bank_that_closes_sends_away_who_waits(tmp_path: Path) -> None:
    with ThreadPoolExecutor(1) as pool:
        with FakeBank(tmp_path / "bank.sqlite3") as bank:
            gate = BankControl(bank.url).gate("charges", "after")
            answer = pool.submit(BankClient(bank.url).charge, "order-1", "4242", 500)
            gate.arrived()
        with pytest.raises(BankHungUp):
            answer.result(timeout=10)


def test_requests_are_listed_whether_or_not_they_were_done(client: BankClient, control: BankControl) -> None:
    control.rule("charges", "decline", times=1)
    with pytest.raises(CardDeclined):
        client.charge("order-1", "4242", 500, key="k")
    client.find("charges", reference="order-1")

    asked = [(visit["operation"], visit["key"]) for visit in control.requests("order-1")]
    assert asked == [("charges", "k"), ("find charges", None)]


def test_errors_of_the_client_survive_pickling() -> None:
    kinds = [kind for kind in vars(bank_client).values() if isinstance(kind, type) and issubclass(kind, BankError)]

    assert len(kinds) == 9
    for kind in kinds:
        again = pickle.loads(pickle.dumps(kind("what happened")))
        assert (type(again), str(again)) == (kind, "what happened")


def test_a_time_out_and_a_dead_line_are_what_python_calls_them() -> None:
    assert issubclass(BankTimeout, TimeoutError)
    assert issubclass(BankDown, ConnectionError)
    assert issubclass(BankHungUp, ConnectionError)


def test_it_runs_as_a_process_and_ends_when_told(tmp_path: Path) -> None:
    port_file = tmp_path / "bank.port"
    command = [sys.executable, "-m", "legacy_sidekiq_style.bank", "--db", str(tmp_path / "bank.sqlite3")]
    process = subprocess.Popen([*command, "--port-file", str(port_file)], env=_environment(), stdout=subprocess.DEVNULL)
    try:
        until = time.monotonic() + 20
        while not port_file.exists() and process.poll() is None and time.monotonic() < until:
            time.sleep(0.01)
        url = f"http://127.0.0.1:{port_file.read_text().strip()}"
        assert BankClient(url).charge("order-1", "4242", 500).kind == "charges"
    finally:
        process.terminate()
    assert process.wait(10) == 0


def test_two_banks_do_not_know_each_other(tmp_path: Path) -> None:
    with FakeBank(tmp_path / "one.sqlite3") as one, FakeBank(tmp_path / "two.sqlite3") as two:
        BankClient(one.url).charge("order-1", "4242", 500)

        assert BankControl(two.url).counts()["charges"] == 0


def _environment(**more: str) -> dict[str, str]:
    examples = str(Path(legacy_sidekiq_style.__file__).parents[1])
    return {**os.environ, "PYTHONPATH": os.pathsep.join([examples, os.environ.get("PYTHONPATH", "")]), **more}
