"""The shop's web process: starts what it is told to start, and says what became of it.

Instructions and answers travel through Redis lists of a database that no fault touches. Run as
`python -m tests.crash.web tests.crash.app`: its argument is the module whose `start` publishes a workflow.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from typing import Any

import redis

COMMANDS, ANSWERS = "web:commands", "web:answers:{}"
#: Seconds after which a web process that hears nothing ends by itself.
LONELY = 900


def main(shop: str) -> None:
    """Serves until told to stop."""
    start = importlib.import_module(shop).start
    with redis.Redis.from_url(os.environ["CRASH_CONTROL"], socket_timeout=None) as control:
        print("the shop is open", flush=True)
        while item := control.brpop(COMMANDS, timeout=LONELY):
            command = json.loads(item[1])
            number = command.pop("number")
            try:
                answer: dict[str, Any] = {"ids": start(**command)}
            except Exception as error:
                answer = {"error": type(error).__name__, "text": str(error)}
            control.lpush(ANSWERS.format(number), json.dumps(answer))


if __name__ == "__main__":
    main(sys.argv[1])
