"""Suspends an event loop that runs only one coroutine, so that an async step can be recorded in place.

`asyncio.run(step(...))` in a plain function starts a loop for that one coroutine, and nothing else waits for it. The step is then
recorded like any other, in the same thread, while the loop is suspended.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from types import CodeType


def _is_alone(code: CodeType) -> bool:
    """Returns whether the only task of the running loop is a coroutine of this code."""
    task = asyncio.current_task()
    if task is None or len(asyncio.all_tasks()) != 1:
        return False
    return getattr(task.get_coro(), "cr_code", None) is code


@contextlib.contextmanager
def standing_still(code: CodeType) -> Iterator[None]:
    """Suspends this thread's running loop for the block, if it has no other task; else the loop keeps running.

    Args:
        code: the code of the calling coroutine.
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
