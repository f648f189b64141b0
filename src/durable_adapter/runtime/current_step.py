"""The running step: it answers `durable.idempotency_key()`, `durable.session()` and the like, when its body calls them."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Callable, Iterator
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

from ..current import STEP
from ..errors import JournalError, NotInWorkflow, UnserialisableValue
from ..model import NAME_LENGTH, SECOND, idempotency_key, stored_text
from .calls import Call
from .publication import publishing

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from .host import Host


logger = logging.getLogger("durable_adapter")

#: Characters that the details of a heartbeat may have as JSON.
DETAILS: Final = 4000
_NOTHING: Final = object()


class RunningStep:
    """One attempt, while its body runs."""

    def __init__(self, host: Host, call: Call, token: str, session: Callable[[], Session] | None = None) -> None:
        self.ref = call.ref
        self.key = call.key
        self.token = token
        self.reference: str | None = None
        #: Publications that wait for the step's transaction; None where there is none.
        self.outbox: list[Callable[[], Any]] | None = None if session is None else []
        #: The number of tasks that the body has launched: part of their derived ids.
        self.launched = 0
        #: The generation of its idempotency key; None until it is read, where the row was claimed without being read.
        self.generation = call.row.generation if call.row is not None else None if call.new_row is None else 0
        self._host = host
        self._call = call
        self._session = session
        #: When this attempt's last heartbeat was written, and the details that came since, as JSON.
        self._heard_at = float("-inf")
        self._unsaid: str | None = None
        self._said: Any = _NOTHING
        self._holds = True

    def idempotency_key(self) -> str:
        """Returns the step's key for its provider."""
        facts = self._call.facts
        if "workflow" not in facts or self.generation is None:
            *facts["workflow"], now = self._host.patient.reads.identity(self.ref, self.key)
            self.generation = now if self.generation is None else self.generation
        namespace, workflow, number = facts["workflow"]
        return idempotency_key(namespace, workflow, number, self.ref, self.key, self.generation)

    def session(self) -> Session:
        """Returns the session of a transactional step."""
        if self._session is None:
            raise NotInWorkflow(
                f"durable.session() needs a step marked transactional=True; {self._call.name} is "
                f"{self._call.policy.safety}. Mark it, or use a session of your own."
            )
        return self._session()

    def set_reference(self, reference: str) -> None:
        """Records the provider's own id of the effect."""
        self.reference = stored_text(str(reference))[:NAME_LENGTH]
        if self._session is not None:
            return  # it is written with the step's end: the step's transaction holds the lock of the row
        self._host.patient.claims.refer(self.ref, self.key, self.token, self.reference or "")

    def heartbeat(self, details: Any = None) -> bool:
        """Records a heartbeat, as `durable.heartbeat()` documents."""
        policy = self._call.policy
        if policy.heartbeat_us is None:
            raise NotInWorkflow(
                f"durable.heartbeat() needs a step that says how long it may be silent; {self._call.name} does not. Declare it, "
                "as in @durable.step(heartbeat=30)."
            )
        if details is not None:
            self._unsaid, self._said = _as_json(self._call.name, details), details
        if monotonic() - self._heard_at >= policy.heartbeat_us / SECOND / 3:
            self._say()
        return self._holds

    def say_the_rest(self) -> None:
        """Writes the last details that are not written yet, for the next attempt to read."""
        if self._unsaid is not None:
            self._say()

    def _say(self) -> None:
        """Writes a heartbeat. If the journal is away the body does not wait: the next heartbeat tries again."""
        policy, beat = self._call.policy, self._host.journal.claims.heartbeat
        assert policy.heartbeat_us is not None
        at = monotonic()
        try:
            self._holds = beat(
                self.ref, self.key, self.token, heartbeat=policy.heartbeat_us, timeout=policy.timeout_us, details=self._unsaid
            )
        except JournalError as error:
            logger.warning("heartbeat_failed run=%s step=%s msg=%r", self.ref, self.key, str(error))
            return
        self._heard_at, self._unsaid = at, None

    def last_heartbeat(self) -> Any:
        """Returns the last details, of this attempt or of an earlier one."""
        if self._said is _NOTHING:
            row = self._host.patient.claims.get(self.ref, self.key)
            self._said = json.loads(row.details) if row is not None and row.details is not None else None
        return self._said

    @contextlib.contextmanager
    def current(self) -> Iterator[None]:
        """Makes this the current step of the context."""
        previous = STEP.set(self)
        try:
            with publishing(attributes=None):
                yield
        finally:
            STEP.reset(previous)


def _as_json(name: str, details: Any) -> str:
    try:
        text = json.dumps(details, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise UnserialisableValue(f"the details of a heartbeat of step {name} must be plain JSON: {error}") from error
    if len(text) > DETAILS:
        raise UnserialisableValue(
            f"the details of a heartbeat of step {name} have {len(text)} characters as JSON; {DETAILS} are the most: say where "
            "the body stands, and keep the rest elsewhere"
        )
    return text
