"""docker-compose.yml: it parses, binds loopback alone, and its comment says what is true."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from footfall.schemas.settings import read_settings

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "docker-compose.yml").read_text()
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load(TEXT)["services"]
EXPORTS = dict(re.findall(r"^#   export (\w+)=(\S+)$", TEXT, re.MULTILINE))


def port_of(service: str) -> int:
    """Return the one port of this machine that a service is reached by."""
    (published,) = SERVICES[service]["ports"]
    address, outside, _inside = published.split(":")
    assert address == "127.0.0.1"
    return int(outside)


def test_there_is_one_node_of_each_server() -> None:
    assert SERVICES.keys() == {"kafka", "clickhouse", "aerospike", "postgres"}


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_is_pinned_checked_and_keeps_its_data(name: str) -> None:
    service = SERVICES[name]
    assert re.fullmatch(r"[\w./-]+:\d+(\.\d+)+", service["image"]), service["image"]
    assert service["healthcheck"]["retries"] > 1
    assert port_of(name)
    named = [volume for volume in service["volumes"] if not volume.startswith("./")]
    assert [volume.partition(":")[0] for volume in named] == [name]
    assert name in yaml.safe_load(TEXT)["volumes"]
    for volume in set(service["volumes"]) - set(named):
        assert (ROOT / volume.partition(":")[0]).is_file(), volume


def test_what_the_comment_exports_points_every_flow_at_these_servers() -> None:
    settings = read_settings(EXPORTS)
    assert settings.kafka_bootstrap == f"127.0.0.1:{port_of('kafka')}"
    assert urlsplit(settings.clickhouse_url).port == port_of("clickhouse")
    assert settings.profiles_url == f"aerospike://127.0.0.1:{port_of('aerospike')}"
    found = urlsplit(settings.postgres_url)
    environment = SERVICES["postgres"]["environment"]
    assert found.port == port_of("postgres")
    assert (found.username, found.password, found.path.strip("/")) == (
        environment["POSTGRES_USER"],
        environment["POSTGRES_PASSWORD"],
        environment["POSTGRES_DB"],
    )


def test_aerospike_has_the_namespaces_that_the_settings_name_and_no_more() -> None:
    text = (ROOT / "infra/aerospike/aerospike.conf").read_text()
    settings = read_settings(EXPORTS)
    assert re.findall(r"^namespace (\w+)", text, re.MULTILINE) == [
        settings.aerospike_profiles_namespace,
        settings.aerospike_aggregates_namespace,
    ]
    assert text.count("{") == text.count("}")
    # Records that expire need a sweeper; ours do not.
    ttls = re.findall(r"default-ttl (\S+)", text)
    assert set(ttls) == {"0"} or "nsup-period" in text
    sizes = re.findall(r"(?:filesize|data-size) (\d+)([MG])", text)
    assert sizes and all(int(n) * (1024 if unit == "G" else 1) >= 512 for n, unit in sizes)


def test_kafka_makes_no_topic_by_itself_as_ours_does_not() -> None:
    environment = SERVICES["kafka"]["environment"]
    assert environment["KAFKA_AUTO_CREATE_TOPICS_ENABLE"] == "false"
    assert f"OUTSIDE://127.0.0.1:{port_of('kafka')}" in environment["KAFKA_ADVERTISED_LISTENERS"]
