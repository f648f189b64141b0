"""`celery -A proj durable ...`: printed commands name the app as it was named, whichever Celery read the name."""

from __future__ import annotations

import sys
from typing import Any

import click
import pytest

from durable_adapter.cli.plugin import _named


class Found(click.ParamType):
    """As Celery's option was once: its value is the app, and its name is gone."""

    name = "app"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return object()


def celery_like(kind: click.ParamType) -> click.Group:
    """A command line with Celery's own options around ours."""
    app = click.Option(["-A", "--app"], envvar="APP", type=kind)
    return click.Group("celery", params=[app, click.Option(["-q", "--quiet"], is_flag=True), click.Option(["-b", "--broker"])])


@pytest.mark.parametrize("kind", [click.UNPROCESSED, Found()], ids=["name kept", "app found"])
@pytest.mark.parametrize(
    ("words", "environment", "name"),
    [
        ("-A bakery durable list -A other", {}, "bakery"),
        ("-q --app=bakery:app -b redis:// durable", {}, "bakery:app"),
        ("-Abakery durable", {}, "bakery"),
        ("durable list", {"APP": "bakery"}, "bakery"),
        ("durable list", {}, None),
    ],
)
def test_the_apps_name_is_known_as_it_was_given(
    monkeypatch: pytest.MonkeyPatch, kind: click.ParamType, words: str, environment: dict[str, str], name: str | None
) -> None:
    monkeypatch.delenv("APP", raising=False)
    for key, value in environment.items():
        monkeypatch.setenv(key, value)
    monkeypatch.setattr(sys, "argv", ["celery", *words.split()])
    context = celery_like(kind).make_context("celery", words.split())
    assert _named(context) == name


def test_an_app_that_was_not_named_on_this_command_line_has_no_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("APP", raising=False)
    monkeypatch.setattr(sys, "argv", ["something", "--unknown"])
    context = celery_like(Found()).make_context("celery", ["-A", "bakery", "durable"])
    assert _named(context) is None
