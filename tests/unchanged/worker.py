"""A worker of the program that is compared. Arguments: the broker's URL, the result backend's, and `plain` or a journal's."""

from __future__ import annotations

import sys

from tests.unchanged.fixed import fix

fix()

from tests.unchanged.app import app  # noqa: E402

if __name__ == "__main__":
    broker, backend, journal = sys.argv[1:4]
    app.conf.update(broker_url=broker, result_backend=backend)
    if journal != "plain":
        from durable_adapter.celery import install

        install(app, journal=journal)
    app.worker_main(["worker", "-P", "solo", "--without-gossip", "--without-mingle", "--without-heartbeat", "-l", "ERROR"])
