"""The commands that findings and stories print: whole, quoted for a shell, and reaching the same journal as the caller.

No printed command decides anything: what would change something is printed without `--apply`, and shows what it would do.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from ..model import StepRow, WorkflowRow
from ..printable import shell_word
from ..urls import without_secrets

#: Stands where only a person can know what to write: JSON that the step would have returned.
VALUE = "VALUE"
#: The option that names each engine, where the caller did not and the command has to send.
OPTIONS = {"celery": "-A APP", "rq": "-u REDIS_URL"}
#: The engine without a queue: the program that has its functions does what is due, and no command can.
INLINE = "inline"
#: Stands in the place of the reason, which only the person knows; as it is, it is refused.
REASON = "how you know"


@dataclass(frozen=True, slots=True)
class Caller:
    """How commands are called so that they reach the journal that is being looked at.

    Attributes:
        program: the command with its options, such as `durable-adapter -A shop` or `celery -A shop durable`.
        engines: the names of the engines that those options reach.
        options: the options that name each engine, as its own commands take them, by engine.
    """

    program: str = "durable-adapter"
    engines: frozenset[str] = frozenset()
    options: Mapping[str, str] = field(default_factory=lambda: OPTIONS)

    def command(self, *words: str, ids: Sequence[str] = (), sends: Collection[str] = ()) -> str:
        """A command that changes nothing by itself.

        Args:
            *words: the command and its options.
            ids: what it is about: ids, steps. They stand behind `--`, because they may begin with a dash.
            sends: the engines whose messages it sends; the options of those that the caller did not name are added.
        """
        missing = [OPTIONS[name] for name in sorted(set(sends) - self.engines) if name in OPTIONS]
        return " ".join([self.program, *missing, *(shell_word(word) for word in words), *_behind_dashes(ids)])

    def sweep(self, *words: str, engines: Collection[str]) -> str:
        """What does what is due on some engines: a command; for what runs inline alone, the call that its program makes."""
        if set(engines) != {INLINE}:
            return self.command("sweep", *words, sends=engines)
        seconds = words[words.index("--for") + 1] if "--for" in words else ""
        return f"durable_adapter.inline.work({seconds})"

    def worker(self, engine: str, queue: str) -> str:
        """The command that starts a worker with the plugin on a queue."""
        if engine == "celery":
            return f"celery {self.options[engine]} worker -Q {shell_word(queue)}"
        return f"rq worker -w durable_adapter.rq.Worker {self.options['rq']} {shell_word(queue)}"

    def change(self, *words: str, ids: Sequence[str] = (), sends: Collection[str] = ()) -> str:
        """A command that shows a change, with the person's name and the place of their reason.

        It becomes that change where the person adds `--apply`, and says how they know.
        """
        signed = f'{self.command(*words, sends=sends)} --by "$(id -un)" --why {shell_word(REASON)}'
        return " ".join([signed, *_behind_dashes(ids)])


def _behind_dashes(ids: Sequence[str]) -> list[str]:
    return ["--", *(shell_word(id) for id in ids)] if ids else []


def workflow_word(run: WorkflowRow) -> str:
    """What commands call a run: its declared id where that names it and may be shown whole, else its reference."""
    return run.id if run.declared and run.run == 1 and not _is_masked(run.id) else run.ref


def step_word(step: StepRow, steps: Sequence[StepRow]) -> str:
    """What commands call a step: its name where that is unique in its run and may be shown whole, else its key."""
    return step.name if sum(other.name == step.name for other in steps) == 1 and not _is_masked(step.name) else step.key


def _is_masked(text: str) -> bool:
    """Whether what is printed hides a part of a text: a command that holds it would name nothing."""
    return without_secrets(text) != text
