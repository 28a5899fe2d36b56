"""A secret goes through every setting, in every shape of a URL: no output ever has it."""

from __future__ import annotations

import itertools
import subprocess
from pathlib import Path

import pytest

from footfall.generator.http_client import Address, LoadError
from footfall.schemas.settings import SettingError, read_settings
from tests.cli_support import footfall
from tests.ports_support import free_port
from tests.test_settings import NONSENSE

HIDDEN = "hunter2"
SCHEMES = (
    "http", "https", "clickhouse", "postgres", "postgresql", "postgresql+psycopg", "sqlite",
    "file", "kafka", "SASL_SSL", "aerospike", "mysql",
)  # fmt: skip
LOGINS = (
    f"bob:{HIDDEN}@", f":{HIDDEN}@", f"{HIDDEN}@", f"bob:{HIDDEN}%zz@", f"bob:{HIDDEN}%ff@",
    f"bob:{HIDDEN}/@", f"bob:{HIDDEN}#@", f"bob:{HIDDEN}?@", f"bob:{HIDDEN}@@",
    f"bob:{HIDDEN} @", f"bob:{HIDDEN}\n@", f"bob:{HIDDEN}:@",
)  # fmt: skip
HOSTS = (
    "127.0.0.1:1/d", "h", "a,b:2", "h:99999", "h:x", "[::1", "", "h/d?x=1",
    f"h?password={HIDDEN}",
)  # fmt: skip
ADDRESSES = {
    "TOPICS_URL", "CLICKHOUSE_URL", "POSTGRES_URL", "PROFILES_URL", "KAFKA_BOOTSTRAP_SERVERS",
    "AEROSPIKE_HOSTNAME",
}  # fmt: skip
BARE = (HIDDEN, f"{HIDDEN}:x", f"http://{HIDDEN}:x", f"h:{HIDDEN}", f"postgresql://h:{HIDDEN}")
"""Texts that may be mistaken for a whole address; elsewhere a plain word is shown."""


def urls() -> list[str]:
    ends = [f"{login}{host}" for login, host in itertools.product(LOGINS, HOSTS)]
    return ends + [f"{scheme}://{end}" for scheme, end in itertools.product(SCHEMES, ends)]


@pytest.mark.parametrize("variable", sorted({*NONSENSE, *ADDRESSES}))
def test_no_setting_tells_it(variable: str) -> None:
    refused = 0
    for url in [*urls(), *(BARE if variable in ADDRESSES else ())]:
        try:
            settings = read_settings({variable: url})
        except SettingError as error:
            refused += 1
            assert HIDDEN not in str(error), url
            assert error.__cause__ is None and error.__suppress_context__
        else:
            assert not variable.endswith("_URL") or HIDDEN not in repr(settings)
    assert refused > 100


def test_no_address_of_the_api_tells_it() -> None:
    for url in [*urls(), *BARE]:
        with pytest.raises(LoadError) as raised:
            Address(url)
        assert HIDDEN not in str(raised.value), url


def said(result: subprocess.CompletedProcess[str]) -> str:
    assert result.returncode in (1, 2)
    return result.stdout + result.stderr


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_no_command_tells_it_where_no_server_answers(tmp_path: Path, scheme: str) -> None:
    login = f"bob:{HIDDEN}@127.0.0.1"
    settings = {
        "CLICKHOUSE_URL": f"{scheme}://{login}:{free_port()}/d",
        "POSTGRES_URL": f"postgresql://{login}:{free_port()}/d?connect_timeout=2",
    }
    for arguments in (
        ["doctor"],
        ["doctor", "--json"],
        ["--debug", "query", "SELECT 1"],
        ["--debug", "query", "--db", "store", "SELECT 1"],
    ):
        result = footfall(tmp_path / "home", *arguments, **settings)
        assert "127.0.0.1" in said(result)
        assert HIDDEN not in said(result), arguments


def test_no_command_tells_it_where_the_setting_is_wrong(tmp_path: Path) -> None:
    for variable, url in {
        "CLICKHOUSE_URL": f"bob:{HIDDEN}@127.0.0.1:1",
        "POSTGRES_URL": f"postgresql://bob:{HIDDEN}/@127.0.0.1/d",
        "KAFKA_BOOTSTRAP_SERVERS": f"SASL_SSL://bob:{HIDDEN}@a:9092",
    }.items():
        for arguments in (["doctor"], ["--debug", "init"], ["run", "minute_buckets"]):
            result = footfall(tmp_path / "home", *arguments, **{variable: url})
            assert variable in said(result)
            assert HIDDEN not in said(result), arguments
