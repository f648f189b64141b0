"""Every secret in a URL is hidden, in one place, however the URL is written."""

from __future__ import annotations

import pytest

from durable_adapter.errors import SettingError
from durable_adapter.journal import Database
from durable_adapter.urls import has_secret, safe_url, scrubbed, without_secrets

SECRET = [
    "postgresql+psycopg://shop:hunter2@db/shop",
    "postgresql://shop:hun@ter2@db/shop",
    "postgresql://shop:hun/ter2@db/shop",
    "postgresql://shop:hun?ter2@db/shop",
    "postgresql://shop:hun#ter2@db/shop",
    "postgresql://db/shop?user=shop&password=hunter2",
    "postgresql://db/shop?%70assword=hunter2",
    "postgresql://db/shop?sslmode=require&sslpassword=hunter2&sslkey=/etc/hunter2.key",
    "postgresql://db/shop?passfile=/home/hunter2/.pgpass",
    "mysql+pymysql://shop:hunter2@db/shop?charset=utf8",
    "redis://:hunter2@cache:6379/0",
    "redis://user:hunter2/0",
    "rediss://cache/0?password=hunter2&ssl_cert_reqs=none",
    "unix:///run/redis.sock?db=1&password=hunter2",
    "amqp://guest:hunter2@mq1//;amqp://guest:hun@ter2@mq2//",
    "sentinel://:hunter2@a:26379;sentinel://:hunter2@b:26379",
    "mongodb://shop:hunter2@a:1,b:2/results",
    "mssql+pyodbc://db/?odbc_connect=DRIVER%3Dx%3BPWD%3Dhunter2",
    "host=db user=shop password=hunter2",
    "shop:hunter2@db/shop",
    "https://hooks.example.org/x?token=hunter2",
]
PLAIN = [
    "postgresql+psycopg://shop@db:5432/shop?sslmode=require",
    "sqlite:////var/lib/a@b/journal.db",
    "redis://localhost:6379/0",
    "postgresql://[::1]:5432/shop",
    "postgresql://a:1,b:2/shop",
    "unix:///run/redis.sock?db=1",
    "memory://",
    "order-42",
    "",
]


@pytest.mark.parametrize("url", SECRET)
def test_a_secret_is_hidden(url: str):
    shown = safe_url(url)
    assert "***" in shown
    assert not any(piece in shown for piece in ("hunter2", "ter2", "hun@"))
    assert has_secret(url)


@pytest.mark.parametrize("url", PLAIN)
def test_what_is_no_secret_is_shown(url: str):
    assert safe_url(url) == url
    assert not has_secret(url)


def test_urls_inside_of_a_text_are_found():
    told = without_secrets("cannot connect to 'amqp://guest:hunter2@mq//' (see https://docs.example.org/a?b=c)")
    assert told == "cannot connect to 'amqp://guest:***@mq//' (see https://docs.example.org/a?b=c)"


def test_a_piece_of_a_password_that_a_driver_quotes_is_hidden():
    assert "ter2" not in scrubbed('could not translate host name "ter2@db" to address', "postgresql://shop:hun@ter2@db/x")
    assert "hunter2" not in scrubbed("invalid dsn: hunter2", "postgresql://db/x?password=hunter2")


@pytest.mark.parametrize(
    "url",
    ["postgresql://shop:hun@ter2@db/shop", "postgresql://shop:hun:9ter2@db:x/shop", "hunter2"],
)
def test_a_journal_that_cannot_be_parsed_is_refused_without_a_piece_of_its_password(url: str):
    with pytest.raises(SettingError, match="write %40 for @") as caught:
        Database(url)
    assert "ter2@" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None or caught.value.__suppress_context__
