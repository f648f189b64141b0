"""`eventually` waits for a condition, and not for ever."""

import time

import pytest

from tests.servers import eventually


def test_returns_what_the_predicate_returned_once_it_is_true():
    answers = iter([None, 0, "", "there"])
    assert eventually(lambda: next(answers)) == "there"


def test_fails_with_the_message_when_the_time_is_over():
    with pytest.raises(AssertionError, match=r"not within 0\.05 s: the parcel"):
        eventually(lambda: False, timeout=0.05, message="the parcel")


def test_a_callable_message_shows_the_last_state():
    seen: list[int] = []
    with pytest.raises(AssertionError, match=r"asked \d+ times"):
        eventually(lambda: seen.append(1), timeout=0.05, message=lambda: f"asked {len(seen)} times")


def test_a_slow_predicate_gets_a_question_after_the_deadline():
    begin = time.monotonic()
    assert eventually(lambda: time.monotonic() - begin > 0.1 or time.sleep(0.2), timeout=0.05)


def test_an_exception_ends_the_wait_at_once():
    with pytest.raises(ZeroDivisionError):
        eventually(lambda: 1 / 0)
