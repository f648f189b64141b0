"""The fake bank: a small real HTTP server that moves money, keeps an append-only ledger and misbehaves when told to.

Run it as `python -m legacy_sidekiq_style.bank --db bank.sqlite3 --port 0 --port-file bank.port`, or in a test as
`with FakeBank(path) as bank:`. Standard library only.
"""

from .server import FakeBank

__all__ = ["FakeBank"]
