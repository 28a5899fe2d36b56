"""Servers as companies run them: TLS with a CA of one's own, several hosts, sockets, IPv6.

What cannot come about is told at once: nobody waits two minutes for a wrong password.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

import pytest

from footfall.api.clickhouse import ClickHouse
from footfall.api.tables import WindowsSource
from footfall.schemas.settings import read_settings
from footfall.schemas.tables.minute_buckets import ROWS
from footfall.schemas.tables.store_metrics import METADATA
from footfall.sinks import SinkError, SinkRefusedError
from footfall.sinks.clickhouse import ClickHouseReader, create_tables
from footfall.sinks.open import open_profiles, open_topics
from footfall.sinks.sql import create_tables as create_store_tables
from footfall.sinks.sql import query_rows
from footfall.streams.open import open_topic
from footfall.streams.source import SourceError
from tests.clickhouse_support import serving
from tests.ports_support import free_port
from tests.postgres_support import PASSWORD, PostgresServer, new_database, postgres
from tests.postgres_support import running as postgres_running
from tests.tls_support import Signed, forwarding, signed

__all__ = ["postgres"]

AT_ONCE_S = 15.0
"""The least of what sinks try again for is 30 s."""


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Signed:
    return signed(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def clickhouse(tmp_path_factory: pytest.TempPathFactory, tls: Signed) -> Iterator[tuple[str, int]]:
    """Yield (user and password, the port of TLS) of a ClickHouse."""
    pytest.importorskip("chdb", reason="chdb is not installed")
    folder = tmp_path_factory.mktemp("clickhouse")
    names = ("--allow-host", "127.0.0.1", "--allow-host", "localhost", "--allow-host", "[::1]")
    with serving(folder, *names) as server:
        login, _, address = server.url.partition("://")[2].partition("@")
        with forwarding(int(address.rpartition(":")[2]), tls) as port:
            yield login, port


def told_at_once(call: Callable[[], object]) -> str:
    began_s = time.monotonic()
    with pytest.raises(SinkRefusedError) as raised:
        call()
    assert time.monotonic() - began_s < AT_ONCE_S
    assert "\n" not in str(raised.value)
    return str(raised.value)


def ask(url: str) -> object:
    with closing(ClickHouseReader(url, give_up_after_s=120.0)) as reader:
        return reader.rows("SELECT 1")[1]


def ask_from_api(url: str) -> list[list[object]]:
    async def asked() -> list[list[object]]:
        clickhouse = ClickHouse(url)
        try:
            return await clickhouse.rows("SELECT 1")
        finally:
            await clickhouse.close()

    return asyncio.run(asked())


def test_clickhouse_behind_tls(clickhouse: tuple[str, int], tls: Signed) -> None:
    login, port = clickhouse
    for options in (f"?ca_cert={quote(str(tls.ca))}", "?verify=0"):
        url = f"https://{login}@localhost:{port}/footfall{options}"
        read_settings({"CLICKHOUSE_URL": url})
        create_tables(url, [ROWS])
        assert ask(url) == ask_from_api(url) == [[1]]


def test_a_certificate_that_cannot_be_verified_is_told_at_once(
    clickhouse: tuple[str, int], tls: Signed, tmp_path: Path
) -> None:
    login, port = clickhouse
    (tmp_path / "other").mkdir()
    other = signed(tmp_path / "other")
    with forwarding(port, host="127.0.0.2") as elsewhere:
        cases = [
            (f"127.0.0.1:{port}", "unable to get local issuer"),
            (f"127.0.0.1:{port}?ca_cert={other.ca}", "signature failure|unable to get local"),
            (f"127.0.0.2:{elsewhere}?ca_cert={tls.ca}", "not valid for '127.0.0.2'"),
        ]
        for address, why in cases:
            url = f"https://{login}@{address}"
            for asked in (ask, ask_from_api):
                began_s = time.monotonic()
                why_not = f"its certificate cannot be verified: .*({why})"
                with pytest.raises(SinkError, match=why_not):
                    asked(url)
                assert time.monotonic() - began_s < AT_ONCE_S
            assert "?ca_cert=/path/to/ca.pem" in told_at_once(lambda url=url: ask(url))


def test_clickhouse_that_does_not_speak_tls_or_is_not_there(
    clickhouse: tuple[str, int], tls: Signed
) -> None:
    with forwarding(free_port()) as nowhere:
        assert ask_from_api  # The port is open, and what answers hangs up.
        with pytest.raises(SinkError):
            ClickHouseReader(f"https://127.0.0.1:{nowhere}").rows("SELECT 1")
    said = told_at_once(lambda: ask("http://nowhere.invalid"))
    assert "ClickHouse at http://nowhere.invalid:8123: " in said
    assert "mend the host in CLICKHOUSE_URL" in said
    with pytest.raises(SinkError, match="its name has no address"):
        ask_from_api("http://nowhere.invalid")
    _, port = clickhouse
    said = told_at_once(lambda: ask(f"https://bob:wrong@127.0.0.1:{port}?verify=0"))
    assert "check the user and password in CLICKHOUSE_URL" in said and "wrong" not in said


def test_clickhouse_over_ipv6(tmp_path: Path) -> None:
    pytest.importorskip("chdb", reason="chdb is not installed")
    with serving(tmp_path, "--allow-host", "[::1]") as server:
        login, _, address = server.url.partition("://")[2].partition("@")
        with forwarding(int(address.rpartition(":")[2]), host="::1") as port:
            url = f"http://{login}@[::1]:{port}/footfall"
            assert ask(url) == ask_from_api(url) == [[1]]


def test_a_home_of_an_odd_name_has_a_clickhouse(tmp_path: Path) -> None:
    pytest.importorskip("chdb", reason="chdb is not installed")
    for name in ("a#b?c%25 &{x,y}*é", "back\\slash's"):
        folder = tmp_path / name / "clickhouse"
        for expected in ([["0"]], [["1"]]):
            with serving(folder) as server:
                create_tables(server.url, [ROWS])
                _, rows = ClickHouseReader(server.url).rows(
                    "SELECT toString(count()) FROM minute_buckets_rows"
                )
                assert rows == expected
                server.rows("INSERT INTO minute_buckets_rows (topic, count) SELECT 't', 1")
                assert (folder / "engine").is_dir()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        ["a#b?c%25 &{x,y}*é", "back\\slash's"]
    )


def store_works(url: str) -> None:
    """Check that tables are made, written and read, by the sink and by the page."""
    create_store_tables(url, METADATA)
    assert query_rows(url, "SELECT count(*) FROM events")[1] == [[0]]
    with closing(WindowsSource(url)) as page:
        assert page.windows().events == []


def test_postgres_by_all_ways(postgres: PostgresServer) -> None:
    database = new_database(postgres.url).rpartition("/")[2]
    login, port = f"footfall:{PASSWORD}", postgres.port
    socket = quote(str(postgres.folder), safe="")
    for address in (
        f"postgres://{login}@127.0.0.1:{port}/{database}",
        f"postgresql+psycopg://{login}@localhost:{port}/{database}?sslmode=disable",
        f"postgresql://{login}@127.0.0.1:{free_port()},127.0.0.1:{port}/{database}",
        f"postgresql://{login}@nowhere.invalid,127.0.0.1:{port}/{database}"
        "?target_session_attrs=read-write&connect_timeout=5",
        f"postgresql://{login}@{socket}:{port}/{database}",
        f"postgresql://{login}@/{database}?host={socket}&port={port}",
    ):
        store_works(address)
        read_settings({"POSTGRES_URL": address})
    with forwarding(port, host="::1") as six:
        store_works(f"postgresql://{login}@[::1]:{six}/{database}")


def test_options_of_the_url_are_those_of_the_session(postgres: PostgresServer) -> None:
    url = new_database(postgres.url)
    create_store_tables(url, METADATA)
    with_schema = f"{url}?options=-c%20search_path%3Dshop&application_name=mine"
    asked = "SELECT current_setting('search_path'), current_setting('application_name')"
    assert query_rows(with_schema, asked)[1] == [["shop", "mine"]]


def test_postgres_behind_tls(tls: Signed) -> None:
    with postgres_running(tls) as server:
        secured = f"?sslmode=verify-full&sslrootcert={quote(str(tls.ca))}"
        store_works(f"{server.url}{secured}")
        asked = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
        assert query_rows(f"{server.url}{secured}", asked)[1] == [[True]]
        with forwarding(server.port, host="127.0.0.2") as port:
            elsewhere = server.url.replace(server.address, f"127.0.0.2:{port}")
            for url in (
                f"{server.url}?sslmode=verify-full&sslrootcert=/no/such/file",
                f"{server.url}?sslmode=verify-full&sslrootcert={tls.key}",
                f"{elsewhere}{secured}",
            ):
                said = told_at_once(lambda url=url: create_store_tables(url, METADATA))
                assert "?sslrootcert=/path/to/ca.pem" in said, url


def test_a_postgres_that_cannot_be_spoken_to_is_told_at_once(
    postgres: PostgresServer, clickhouse: tuple[str, int]
) -> None:
    at = f"127.0.0.1:{postgres.port}"
    cases = {
        f"{postgres.url}?sslmode=require": "turn TLS on in the server",
        f"{postgres.url}?sslmode=requir": "mend what stands after the ?",
        f"postgresql://footfall:wrong@{at}/postgres": "check the user and password",
        f"postgresql://footfall:wrong@127.0.0.1:{free_port()},{at}/postgres": "check the user",
        f"postgresql://footfall@{at}/postgres": "check the user and password",
        f"postgresql://nobody:{PASSWORD}@{at}/postgres": "check the user and password",
        f"postgresql://footfall:{PASSWORD}@{at}/nowhere": "mend the database",
        "postgresql://footfall@nowhere.invalid/d": "mend the host in POSTGRES_URL",
        f"postgresql://footfall@127.0.0.1:{clickhouse[1]}/d?sslmode=disable": "",
    }
    for url, remedy in cases.items():
        if remedy:
            said = told_at_once(lambda url=url: create_store_tables(url, METADATA))
            assert remedy in said and PASSWORD not in said and "wrong" not in said, said


def test_names_that_lead_nowhere_are_told_at_once(tmp_path: Path) -> None:
    settings = read_settings(
        {
            "FOOTFALL_HOME": str(tmp_path),
            "KAFKA_BOOTSTRAP_SERVERS": "nowhere.invalid:9092,neither.invalid",
            "AEROSPIKE_HOSTNAME": "nowhere.invalid,neither.invalid",
        }
    )
    names = "nowhere.invalid, neither.invalid has no address"
    said = told_at_once(lambda: open_topics(settings))
    assert names in said and "mend KAFKA_BOOTSTRAP_SERVERS" in said
    with pytest.raises(SourceError, match=f"{names}; mend KAFKA_BOOTSTRAP_SERVERS"):
        open_topic(settings, "visits", group="g")
    with closing(open_profiles(settings)) as store:
        said = told_at_once(lambda: store.get("c", 0, 1, 1))
        assert names in said and "mend the host in PROFILES_URL" in said
