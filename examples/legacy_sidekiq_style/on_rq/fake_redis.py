"""A Redis that needs no installation: fakeredis, on a port of the loopback interface, in a process of its own.

It keeps everything in memory. Workers, which are processes too, reach it as they reach any Redis.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from redis import Redis


class Client(Redis):
    """A client that knows what it does not do: `RQ_CONNECTION_CLASS=legacy_sidekiq_style.on_rq.fake_redis.Client`."""

    def info(self, *_args: Any, **_kwargs: Any) -> dict[str, Any]:
        """What a server says of itself; RQ asks for its version, and this one hangs up on questions that it does not know."""
        return {"redis_version": "7.0.0"}

    def client_info(self, **kwargs: Any) -> Any:
        """What a server says of this connection; this one writes addresses in a way that redis-py cannot read."""
        try:
            return super().client_info(**kwargs)
        except ValueError:
            return {"addr": "unknown"}


def main() -> None:
    """Reads the command line, serves, and writes the port to a file once it listens."""
    from fakeredis import TcpFakeServer

    parser = argparse.ArgumentParser(prog="python -m legacy_sidekiq_style.on_rq.fake_redis", description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="port on the loopback interface; 0 takes a free one")
    parser.add_argument("--port-file", type=Path, required=True, help="file that receives the port as soon as it listens")
    arguments = parser.parse_args()

    with TcpFakeServer(("127.0.0.1", arguments.port)) as server:
        # A reader of the port sees the whole file or none.
        unfinished = arguments.port_file.with_name(f"{arguments.port_file.name}.{os.getpid()}")
        unfinished.write_text(f"{server.server_address[1]}\n")
        unfinished.replace(arguments.port_file)
        server.serve_forever()


if __name__ == "__main__":
    main()
