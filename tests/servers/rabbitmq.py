"""RabbitMQ: the server of this machine or a named one, with a virtual host of our own where we may make one."""

import contextlib
import os
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from urllib.parse import unquote, urlsplit

from tests.servers.addresses import LOOPBACK, NO_LOCAL_SERVICES, local_services_allowed
from tests.servers.unavailable import Unavailable

URL_VARIABLE = "DURABLE_TEST_RABBITMQ"
LOCAL_SERVER = f"amqp://guest:guest@{LOOPBACK}:5672"
CONNECT_TIMEOUT = 3
CONTROL_TIMEOUT = 60


@contextlib.contextmanager
def shared_rabbitmq() -> Iterator[tuple[str, str]]:
    """URL and description of a RabbitMQ virtual host.

    This machine's server, where `rabbitmqctl` obeys us, gives a host of our own that is deleted afterwards. Elsewhere
    the host is shared, and only a prefix in the names of the queues keeps tests apart.
    """
    if named := os.environ.get(URL_VARIABLE):
        _check(named)
        yield named, f"RabbitMQ, named by {URL_VARIABLE}"
        return
    if not local_services_allowed():
        raise Unavailable(f"no RabbitMQ: {NO_LOCAL_SERVICES} is set, and there is no wheel that brings one")
    _check(f"{LOCAL_SERVER}//")
    host = f"durable_test_{secrets.token_hex(4)}"
    if not (_control("add_vhost", host) and _control("set_permissions", "-p", host, "guest", ".*", ".*", ".*")):
        yield f"{LOCAL_SERVER}//", "RabbitMQ, this machine's, shared virtual host"
        return
    try:
        yield f"{LOCAL_SERVER}/{host}", "RabbitMQ, this machine's, a virtual host of our own"
    finally:
        _control("delete_vhost", host)


def _check(url: str) -> None:
    try:
        import amqp
    except ImportError:
        raise Unavailable("amqp is not installed") from None

    parts = urlsplit(url)
    connection = amqp.Connection(
        host=f"{parts.hostname}:{parts.port or 5672}",
        userid=unquote(parts.username or "guest"),
        password=unquote(parts.password or "guest"),
        virtual_host=unquote(parts.path[1:]) or "/",
        connect_timeout=CONNECT_TIMEOUT,
    )
    try:
        connection.connect()
    except (OSError, amqp.AMQPError) as error:
        raise Unavailable(f"no RabbitMQ: {error}") from None
    connection.close()


def _control(*words: str) -> bool:
    """Whether `rabbitmqctl` is here and did as it was told."""
    program = shutil.which("rabbitmqctl")
    if program is None:
        return False
    try:
        done = subprocess.run([program, "--quiet", *words], capture_output=True, timeout=CONTROL_TIMEOUT, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0
