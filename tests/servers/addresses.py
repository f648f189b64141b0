"""Where servers are looked for, and free places on the loopback interface for those the tests start themselves."""

import os
import socket

LOOPBACK = "127.0.0.1"

# Set to 1, the servers that run on this machine are left alone: everything comes from wheels or is skipped.
NO_LOCAL_SERVICES = "DURABLE_TEST_NO_LOCAL_SERVICES"

# Set to 1, no server is looked for or started: tests that need one, or a process of their own, are left out.
NO_SERVERS = "DURABLE_TEST_NO_SERVERS"


def local_services_allowed() -> bool:
    return os.environ.get(NO_LOCAL_SERVICES, "") in ("", "0")


def servers_allowed() -> bool:
    return os.environ.get(NO_SERVERS, "") in ("", "0")


def free_port() -> int:
    """A port nobody listens on now; whoever uses it must be ready to lose the race for it and ask again."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        port: int = probe.getsockname()[1]
        return port
