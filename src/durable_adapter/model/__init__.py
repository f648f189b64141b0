"""The model: statuses, kinds, rows and ids. Everything here is plain data; nothing uses a database or a queue.

Other packages import the names from here, not from the files.
"""

from ..codec import Stored
from .facts import REPEATABLE, Alert, Attention, Cause, Death, Effect, Event, Mode, Safety
from .ids import (
    DEFAULT_NAMESPACE,
    ID_LENGTH,
    KEY_LENGTH,
    LABEL_LENGTH,
    NAME_LENGTH,
    NAMESPACE,
    SLEEPS,
    STAMP,
    STAMP_VERSION,
    TASK_ID_LENGTH,
    UNDO,
    attempt_name,
    attempt_place,
    bounded_key,
    call_key,
    can_be_kept,
    derive,
    derive_ref,
    idempotency_key,
    is_member_key,
    is_storable,
    make_stamp,
    member_key,
    new_ref,
    new_token,
    read_stamp,
    stored_text,
    task_key,
    undo_key,
)
from .kinds import KINDS, Kind, Shape, Words, having, kind_named, kind_of_key, kind_of_member
from .rows import (
    ALLOW_FAILURE,
    ALSO_AFTER,
    MISSED_BEATS,
    SECOND,
    Expected,
    StepRow,
    WorkerRow,
    WorkflowRow,
    forward,
    function_of,
    in_place,
    takes,
)
from .status import (
    BORN,
    CLAIMABLE,
    ENDED_WORKFLOWS,
    FORWARD_WORKFLOWS,
    LEGAL,
    LEGAL_RUNS,
    NEVER_DUE,
    OPEN_STEPS,
    OPEN_WORKFLOWS,
    UNDOING_WORKFLOWS,
    UNSETTLED_STEPS,
    Start,
    StepStatus,
    WorkflowStatus,
    check_transition,
)
