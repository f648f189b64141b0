"""The reference of the command line is complete, and the guide knows every kind of finding and whether it is safe."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from durable_adapter.cli import Commands, command_line
from durable_adapter.cli.command import Command
from durable_adapter.cli.group import COMMANDS
from durable_adapter.reconcile import MEANING, Trouble

DOCS = Path(__file__).parents[2] / "docs"
REFERENCE = (DOCS / "reference" / "cli.md").read_text()
GUIDE = (DOCS / "how-to" / "reconcile.md").read_text()


def command_of(name: str) -> click.Command:
    assert isinstance(command_line, Commands)
    found = command_line.get_command(click.Context(command_line), name)
    assert found is not None
    return found


@pytest.mark.parametrize("name", list(COMMANDS))
def test_every_command_has_a_section_and_every_option_is_in_the_reference(name: str) -> None:
    assert f"\n## {name}\n" in REFERENCE
    for parameter in command_of(name).params:
        if isinstance(parameter, click.Option):
            assert any(re.search(rf"(?<![\w-]){re.escape(opt)}(?![\w-])", REFERENCE) for opt in parameter.opts), parameter.opts


@pytest.mark.parametrize("name", list(COMMANDS))
def test_every_command_and_option_explains_itself(name: str) -> None:
    command = command_of(name)
    assert command.help
    assert [p.opts for p in command.params if isinstance(p, click.Option) and not p.help] == []


@pytest.mark.parametrize("name", list(COMMANDS))
def test_every_commands_help_has_an_example_for_celery_and_one_for_rq_that_it_takes(name: str) -> None:
    command = command_of(name)
    help_ = CliRunner().invoke(command_line, [name, "--help"], prog_name="durable-adapter").stdout
    assert isinstance(command, Command)
    programs = []
    for what, line in command.examples:
        assert f"  # {what}\n  {line}\n" in help_
        program, *words = shlex.split(line)
        assert program == "durable-adapter"
        group = command_line.make_context(program, [*words])
        chosen, found, rest = command_line.resolve_command(group, [*group._protected_args, *group.args])
        assert (chosen, found) == (name, command), line
        assert found is not None
        found.make_context(chosen, rest, parent=group)  # every option and value is one that it takes
        programs.append(f" {' '.join(words)} ")
    on_celery, *on_rq = (" demo ", " --engine rq ") if name == "demo" else (" -A shop ", " -u redis://", " --import shop.jobs ")
    assert any(on_celery in words for words in programs)
    assert any(word in words for words in programs for word in on_rq)


def test_the_help_of_reconcile_lists_every_kind_with_what_it_means() -> None:
    told = " ".join(CliRunner().invoke(command_line, ["reconcile", "--help"]).stdout.split())
    for trouble, meaning in MEANING.items():
        assert f"{trouble.value} {meaning}" in told


def test_the_guide_lists_every_kind_in_order() -> None:
    assert re.findall(r"^\| `(\w+)` \|", GUIDE, re.M) == [kind.value for kind in Trouble]


def test_commands_are_listed_where_people_look() -> None:
    for name in COMMANDS:
        assert f"[`{name}`](#{name})" in REFERENCE


def test_the_help_of_the_demo_names_its_stories() -> None:
    told = CliRunner().invoke(command_line, ["demo", "--help"]).stdout
    for story in ("exchange", "order", "order-worker-lost", "order-requeued"):
        assert re.search(rf"^  {story} ", told, re.M)


def test_the_options_of_every_command_are_told_once() -> None:
    told = CliRunner().invoke(command_line, ["list", "--help"], prog_name="durable-adapter").stdout
    assert "--serializer" not in told
    assert "See `durable-adapter --help`." in " ".join(told.split())
    assert "--serializer" in CliRunner().invoke(command_line, ["--help"]).stdout
