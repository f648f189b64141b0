"""A coroutine that has its event loop to itself, and may stop it: how a step that is an async function is recorded in place.

`asyncio.run(step(...))` in a plain function starts a loop for that one coroutine, and nothing else waits for it. The step is
then recorded as ever, in the same thread, while the loop stands still.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from types import CodeType


def _is_alone(code: CodeType) -> bool:
    """Whether the only task of the running loop is a coroutine of this code itself."""
    task = asyncio.current_task()
    if task is None or len(asyncio.all_tasks()) != 1:
        return False
    return getattr(task.get_coro(), "cr_code", None) is code


@contextlib.contextmanager
def standing_still(code: CodeType) -> Iterator[None]:
    """A block in which no loop runs in this thread, where the running one has nothing else to do; else the loop runs on.

    Args:
        code: the code of the coroutine that asks.
    """
    if not _is_alone(code):
        yield
        return
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    asyncio.tasks._leave_task(loop, task)
    asyncio._set_running_loop(None)
    try:
        yield
    finally:
        asyncio._set_running_loop(loop)
        asyncio.tasks._enter_task(loop, task)
