"""The queue: `rq worker` runs what is put there."""

from legacy_sidekiq_style.on_rq.app import connect

queue = connect()
