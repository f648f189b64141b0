"""The queue: `rq worker -w durable_adapter.rq.Worker` runs what is put there."""

import os

import durable_adapter.rq
from legacy_sidekiq_style.on_rq.app import connect

queue = connect()
durable_adapter.rq.install(journal=os.environ["SHOP_JOURNAL"])
