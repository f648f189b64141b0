"""The states that this binding adds to Celery's own."""

from __future__ import annotations

#: The Celery state of a step that waits for a person. Never ready: `get()` keeps waiting.
HELD = "HELD"
