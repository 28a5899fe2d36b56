"""A variable that is set to nonsense stops the program at its start, with a line naming it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from footfall.cli.main import build_parser, command_names
from footfall.schemas.settings import SettingError, read_settings
from tests.cli_support import ROOT, footfall, one_line

NONSENSE = {
    "AEROSPIKE_PORT": "abc",
    "TOPICS_URL": "ftp://somewhere",
    "TOPICS_RETENTION_H": "0",
    "TOPICS_RETENTION_BYTES": "4 GB",
    "CLICKHOUSE_URL": "127.0.0.1:8123",
    "POSTGRES_URL": "mysql://host/db",
    "PROFILES_URL": "sqlite://",
    "KAFKA_POLL_TIMEOUT": "-1",
    "KAFKA_MAX_POLL_RECORDS": "many",
    "AEROSPIKE_PROFILES_BIN": "a_name_of_more_than_15",
    "AEROSPIKE_AGGREGATES": "maybe",
    "AEROSPIKE_COMMIT_LEVEL": "SOME",
    "AEROSPIKE_GENERATION_POLICY": "LT",
    "AEROSPIKE_BUCKETS_PER_KEY": "0",
    "NUM_TAGS_TO_KEEP": "2.5",
    "RAW_ROWS_TTL_DAYS": "a week",
    "MAX_PARALLEL_WRITES": "1000",
    "DEFAULT_LIMIT": "-3",
    "PRODUCER_DATA_SEC_PER_REAL_SEC": "nan",
    "PRODUCER_STARTUP_DELAY_IN_SEC": "soon",
    "PRINT_PRODUCER_LOGS": "maybe",
    "FRONTEND_PORT": "70000",
    "ALLOWED_HOSTS": "http://shop.example",
    "ALLOWED_ORIGINS": "shop.example",
    "METRICS_PORT": "65001",
    "LOGIN_ALERTS_PORT": "66000",
    "LOG_FORMAT": "xml",
    "LOG_LEVEL": "LOUD",
    "USE_LOGGER": "2",
    "LOG_HEADERS": "x",
    "LOG_BODY": "x",
    "FOOTFALL_DEBUG_ANSWERS": "x",
}


@pytest.mark.parametrize(("variable", "value"), NONSENSE.items())
def test_nonsense_is_refused_by_name(variable: str, value: str) -> None:
    with pytest.raises(SettingError) as raised:
        read_settings({variable: value})
    text = str(raised.value)
    # No address is shown, as any part of one may be a password.
    shown = "" if variable.endswith("_URL") else f"={value!r}"
    assert text.startswith(f"{variable}{shown}: takes ")
    assert "\n" not in text


def test_every_variable_of_a_narrow_kind_is_tried_above() -> None:
    source = (ROOT / "schemas" / "settings.py").read_text()
    narrow = {
        name
        for name, parser in re.findall(r'"([A-Z][A-Z_]+)",\s[^"]*?,\s*(_\w+|positive)', source)
        if parser != "str"
    }
    assert narrow <= set(NONSENSE)


def test_an_empty_variable_is_an_unset_one() -> None:
    assert read_settings(dict.fromkeys(NONSENSE, "")) == read_settings({})


def test_defaults_fit_one_machine() -> None:
    settings = read_settings({"FOOTFALL_HOME": "/some/home"})
    assert settings.topics_url == "file:///some/home/topics"
    assert settings.profiles_url == "sqlite:////some/home/profiles.sqlite"
    assert settings.postgres_url == "sqlite:////some/home/store.sqlite"
    assert (settings.frontend_port, settings.default_limit) == (8080, 200)
    assert (settings.num_tags_to_keep, settings.aerospike_buckets_per_key) == (200, 60)


def test_servers_are_chosen_by_address_alone() -> None:
    settings = read_settings(
        {"KAFKA_BOOTSTRAP_SERVERS": "kafka:9092", "AEROSPIKE_HOSTNAME": "aero"}
    )
    assert settings.kafka_bootstrap == "kafka:9092"
    assert settings.topics_folder is None
    assert settings.profiles_url == "aerospike://aero:3000"


def test_aggregates_need_the_server_of_the_profiles() -> None:
    on = {"AEROSPIKE_AGGREGATES": "1"}
    for address in ({}, {"PROFILES_URL": "sqlite:///some.sqlite"}):
        with pytest.raises(SettingError, match=r"AEROSPIKE_AGGREGATES='1': .*PROFILES_URL") as one:
            read_settings({**on, **address})
        assert "\n" not in str(one.value)
    assert read_settings({**on, "PROFILES_URL": "aerospike://aero"}).aerospike_aggregates
    assert read_settings({**on, "AEROSPIKE_HOSTNAME": "aero"}).aerospike_aggregates
    assert not read_settings({"AEROSPIKE_HOSTNAME": "aero"}).aerospike_aggregates


ARGUMENTS = {
    "demo": ["--once", "--tags", "1"],
    "run": ["minute_buckets"],
    "generate": ["store", "--total", "1"],
    "query": ["SELECT 1"],
    "replay": ["minute_buckets", "--from", "2022-03-22"],
    "verify": ["minute_buckets"],
    "dead-letters": ["ls"],
    "topics": ["ls"],
    "completion": ["bash"],
}
NEEDS_NO_SETTINGS = {"flows", "completion"}


@pytest.mark.parametrize("command", command_names(build_parser()))
def test_every_command_says_it_in_one_line(command: str, tmp_path: Path) -> None:
    result = footfall(
        tmp_path / "home", command, *ARGUMENTS.get(command, []), KAFKA_POLL_TIMEOUT="soon"
    )
    if command in NEEDS_NO_SETTINGS:
        assert result.returncode == 0
        return
    if command == "doctor":
        # To find that out is its work.
        assert result.returncode == 1
        assert "KAFKA_POLL_TIMEOUT='soon': takes a whole number" in result.stdout
        return
    assert result.returncode == 2
    assert one_line(result) == (
        "footfall: KAFKA_POLL_TIMEOUT='soon': takes a whole number from 1 to 60000"
    )
    assert not (tmp_path / "home").exists()
