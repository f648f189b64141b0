"""Runs every benchmark, one after the other: `python -m benchmarks [NAME ...]`."""

from __future__ import annotations

import importlib
import pkgutil
import sys
from pathlib import Path

HELPERS = {"__main__", "report", "chain_app", "rq_jobs"}

names = sorted(m.name for m in pkgutil.iter_modules([str(Path(__file__).parent)]) if m.name not in HELPERS)
wanted = sys.argv[1:] or names
unknown = [name for name in wanted if name not in names]
if unknown:
    raise SystemExit(f"no benchmark {', '.join(unknown)}; there are {', '.join(names)}")
worst = 0
for name in wanted:
    print(f"== {name}", file=sys.stderr, flush=True)
    worst = max(worst, int(importlib.import_module(f"benchmarks.{name}").main([]) or 0))
raise SystemExit(worst)
