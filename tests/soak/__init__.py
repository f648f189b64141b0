"""Many sagas on real workers for many minutes, under random kills, flushes, cuts and lost answers.

Run as `python -m tests.soak` or `make soak`. `sagas` says what is started, `shop` what the steps do, `celery_app` and `rq_app`
how each engine runs them; `site` has the servers and processes, `faults` breaks them, `verdict` judges, `soak` is the command.
"""

import tests.crash  # noqa: F401  # puts the examples on the path
