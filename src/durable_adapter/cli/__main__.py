"""`python -m durable_adapter.cli`: the same as the command `durable-adapter`."""

from . import main

main()
