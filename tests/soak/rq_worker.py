"""`rq worker` with the soak's functions loaded before the first job, as a worker of an application has them."""

import sys

from rq.cli import main

import tests.soak.rq_app  # noqa: F401

if __name__ == "__main__":
    sys.exit(main(["worker", *sys.argv[1:]]))
