"""A small shop on Celery, told twice: `before` as a legacy code base has it, `after` with durable-adapter installed.

The same on RQ is in `on_rq`. All of them talk over HTTP to the same fake bank (`bank/`), whose ledger is the only
witness that counts.
"""
