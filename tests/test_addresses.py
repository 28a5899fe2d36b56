"""URLs in, addresses out, or a reason that says what is taken and shows nothing of the URL."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from footfall.schemas.addresses import file_url, path_of, sqlite_url
from footfall.schemas.database_addresses import clickhouse_address, postgres_address
from footfall.schemas.settings import SettingError, read_settings

HIDDEN = "hunter2"


@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [
        ("KAFKA_BOOTSTRAP_SERVERS", "kafka", "kafka:9092"),
        ("KAFKA_BOOTSTRAP_SERVERS", "a:1, b:2,", "a:1,b:2"),
        ("KAFKA_BOOTSTRAP_SERVERS", "PLAINTEXT://a:1,plaintext://b:2", "a:1,b:2"),
        ("KAFKA_BOOTSTRAP_SERVERS", "[::1]:9093,10.0.0.1", "[::1]:9093,10.0.0.1:9092"),
        ("TOPICS_URL", "kafka://a:1,[fe80::1]:2,c/", "a:1,[fe80::1]:2,c:9092"),
    ],
)
def test_brokers(variable: str, value: str, expected: str) -> None:
    settings = read_settings({variable: value})
    assert settings.kafka_bootstrap == expected
    assert settings.topics_folder is None


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"AEROSPIKE_HOSTNAME": "a,b:3100,[::1]"}, "aerospike://a:3000,b:3100,[::1]:3000"),
        ({"AEROSPIKE_HOSTNAME": "a", "AEROSPIKE_PORT": "4"}, "aerospike://a:4"),
        ({"PROFILES_URL": "aerospike://a,b:1"}, "aerospike://a,b:1"),
    ],
)
def test_aerospike_nodes(environ: dict[str, str], expected: str) -> None:
    settings = read_settings(environ)
    assert (settings.profiles_url, settings.profiles_file) == (expected, None)


@pytest.mark.parametrize(
    ("url", "origin", "user", "password", "database"),
    [
        ("http://h", "http://h:8123", "", "", ""),
        ("https://h", "https://h:8443", "", "", ""),
        ("https://h:1/", "https://h:1", "", "", ""),
        ("http://[::1]/shop%2D1", "http://[::1]:8123", "", "", "shop-1"),
        ("http://bob:p%40%2F%3A%C3%A9@h:8123/d", "http://h:8123", "bob", "p@/:é", "d"),
        ("http://bob@h", "http://h:8123", "bob", "", ""),
        ("http://:secret@h", "http://h:8123", "default", "secret", ""),
    ],
)
def test_clickhouse(url: str, origin: str, user: str, password: str, database: str) -> None:
    found = clickhouse_address(url)
    assert (found.origin, found.user, found.password) == (origin, user, password)
    assert found.database == database
    assert not password or password not in repr(found)


def test_what_clickhouse_is_secured_by() -> None:
    assert clickhouse_address("http://h").tls() is None
    strict = clickhouse_address("https://h").tls()
    lax = clickhouse_address("https://h?verify=0").tls()
    assert strict is not None and strict.check_hostname
    assert lax is not None and not lax.check_hostname


@pytest.mark.parametrize(
    ("url", "options", "shown"),
    [
        (
            "postgres://bob:p%40@a:1,b:2/shop?target_session_attrs=read-write",
            {"user": "bob", "password": "p@", "host": "a,b", "port": "1,2", "dbname": "shop",
             "target_session_attrs": "read-write"},
            "postgresql://bob:***@a:1,b:2/shop",
        ),
        (
            "postgresql+psycopg://[::1]/d?sslmode=verify-full&sslrootcert=/c%20a.pem",
            {"host": "::1", "dbname": "d", "sslmode": "verify-full", "sslrootcert": "/c a.pem"},
            "postgresql://[::1]/d",
        ),
        (
            "postgresql://%2Fvar%2Frun/d?options=-c%20search_path%3Dshop",
            {"host": "/var/run", "dbname": "d", "options": "-c search_path=shop"},
            "postgresql://%2Fvar%2Frun/d",
        ),
        (
            f"postgresql:///d?host=/var/run&password={HIDDEN}",
            {"host": "/var/run", "dbname": "d", "password": HIDDEN},
            "postgresql://%2Fvar%2Frun/d",
        ),
    ],
)  # fmt: skip
def test_postgres(url: str, options: dict[str, str], shown: str) -> None:
    found = postgres_address(url)
    assert (found.options, found.shown) == (options, shown)
    assert read_settings({"POSTGRES_URL": url}).store_file is None
    assert HIDDEN not in repr(found)


@given(st.text(st.characters(exclude_characters="/\0", codec="utf-8"), min_size=1))
@example("a#b?c%25 &{x}*é")
@example("100%")
@example(":memory:")
def test_a_home_of_any_name_has_its_files(name: str) -> None:
    home = Path("/homes") / name
    assert path_of(file_url(home / "topics"), "") == home / "topics"
    assert path_of(sqlite_url(home / "a.sqlite"), "") == home / "a.sqlite"
    settings = read_settings({"FOOTFALL_HOME": str(home)})
    found = (settings.topics_folder, settings.store_file, settings.profiles_file)
    assert found == (home / "topics", home / "store.sqlite", home / "profiles.sqlite")


def test_a_path_may_be_written_as_it_is() -> None:
    settings = read_settings(
        {
            "POSTGRES_URL": "sqlite:///some folder/100% #1.sqlite",
            "TOPICS_URL": "file:///my%20shop/é",
        }
    )
    assert settings.store_file == Path("some folder/100% #1.sqlite")
    assert settings.topics_folder == Path("/my shop/é")


REFUSED = {
    "TOPICS_URL": [
        ("kafka://", "with a host"),
        (f"kafka://bob:{HIDDEN}@a", "SASL cannot be used yet"),
        ("kafka://a/topic", "nothing after that"),
        ("kafka://a:x", "a port is a number"),
        ("kafka://::1:9092", "in brackets"),
        ("file://topics", "the whole path"),
        ("file:///a?b", "%3F"),
    ],
    "KAFKA_BOOTSTRAP_SERVERS": [
        ("SASL_SSL://a:9092", "SASL_SSL:// and the like name a listener"),
        ("a:9092,SSL://b:9092", "TLS and SASL cannot be used yet"),
        ("kafka://a:9092", "name a listener"),
        (f"bob:{HIDDEN}@a:9092", "takes host:port"),
        ("a b", "takes host:port"),
        (",", "with a host"),
    ],
    "CLICKHOUSE_URL": [
        (f"bob:{HIDDEN}@h:8123", "takes http://host:port"),
        (f"clickhouse://bob:{HIDDEN}@h", "takes http://host:port"),
        ("http://a,b", "a single host"),
        ("http://h/a/b", "one name after the /"),
        ("http://h:0", "from 1 to 65535"),
        ("http://h?verify=0", "are for https://"),
        ("https://h?ca_cert=/no/such/file", "a file with the certificates to trust"),
        (f"https://h?password={HIDDEN}", "ca_cert=/path/to/ca.pem and verify=0"),
        ("https://h?verify=maybe", "ca_cert=/path/to/ca.pem and verify=0"),
        (f"http://bob:{HIDDEN}/{HIDDEN}@h", "written as %2F"),
        (f"http://bob:{HIDDEN}?{HIDDEN}@h", "written as %2F"),
        (f"http://bob:{HIDDEN}#{HIDDEN}@h", "written as %2F"),
        (f"http://bob:{HIDDEN}@{HIDDEN}@h", "written %40"),
        (f"http://bob:{HIDDEN}%@h", "written %25"),
        (f"http://bob:{HIDDEN}%ff@h", "of UTF-8"),
        (f"http://bob:{HIDDEN} @h", "written %20"),
        (f"http://bob:{HIDDEN}", "a port is a number"),
    ],
    "POSTGRES_URL": [
        ("mysql://h/d", "takes sqlite:///file or postgresql://"),
        ("postgresql://", "with a host or a database"),
        ("postgresql://h:99999/d", "from 1 to 65535"),
        ("postgresql://[::1/d", "in brackets"),
        ("postgresql://h/d?sslmod=require", "something else is there"),
        (f"postgresql://bob:{HIDDEN}/{HIDDEN}@h/d", "written as %2F"),
        (f"postgresql://bob:{HIDDEN}%zz@h/d", "written %25"),
        ("sqlite://h/file", "three slashes"),
        ("sqlite:///:memory:", "needs the path of a file"),
        ("sqlite:////a?mode=ro", "no options are taken"),
        ("file:///a", "takes sqlite:///file"),
    ],
    "PROFILES_URL": [
        (f"aerospike://bob:{HIDDEN}@h", "without a user"),
        ("aerospike://h/namespace", "nothing after that"),
        ("aerospike://h:x", "a port is a number"),
        ("file:///a", "takes aerospike://host:port"),
    ],
    "AEROSPIKE_HOSTNAME": [("aerospike://h", "takes a host"), ("h:99999", "from 1 to 65535")],
}


@pytest.mark.parametrize(
    ("variable", "value", "reason"),
    [(variable, *case) for variable, cases in REFUSED.items() for case in cases],
)
def test_what_is_not_taken_is_refused_at_the_start(variable: str, value: str, reason: str) -> None:
    with pytest.raises(SettingError) as raised:
        read_settings({variable: value})
    said = str(raised.value)
    assert said.startswith(variable) and reason in said
    assert HIDDEN not in said and "\n" not in said
