"""The settings of the product, read once from environment variables.

Only ``cli``, the start-up of ``api`` and a flow's ``main()`` read the environment.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from footfall.schemas import addresses
from footfall.schemas.addresses import AddressError, Host, scheme_of
from footfall.schemas.database_addresses import (
    CLICKHOUSE_TAKES,
    STORE_TAKES,
    clickhouse_address,
    postgres_address,
)

RETENTION_BYTES = 34_359_738_368
"""Bytes kept of an embedded topic: 32 GiB, more than a hundred million store events."""


class SettingError(ValueError):
    """A variable with a value that is not accepted; the message names it and says what it
    takes."""


@dataclass(frozen=True, slots=True)
class Settings:
    """All settings; the name of each is its variable's in lower case."""

    footfall_home: Path
    # A URL may hold a password, so it is not shown.
    topics_url: str = field(repr=False)
    topics_retention_h: int | None
    """Hours that embedded topics keep records; None for the catalogue's value of each topic."""
    topics_retention_bytes: int
    """Bytes that each embedded topic keeps."""
    clickhouse_url: str = field(repr=False)
    postgres_url: str = field(repr=False)
    profiles_url: str = field(repr=False)
    kafka_topic: str
    kafka_group: str
    kafka_consumer_id: str
    kafka_poll_timeout_ms: int
    kafka_max_poll_records: int
    kafka_wire_format: str
    aerospike_profiles_namespace: str
    aerospike_aggregates: bool
    aerospike_aggregates_namespace: str
    aerospike_profiles_bin: str
    aerospike_commit_level: str
    aerospike_generation_policy: str
    aerospike_buckets_per_key: int
    num_tags_to_keep: int
    raw_rows_ttl_days: int
    max_parallel_writes: int
    default_limit: int
    input_file_name: str
    producer_data_sec_per_real_sec: float
    producer_startup_delay_s: float
    print_producer_logs: bool
    frontend_hostname: str
    frontend_port: int
    allowed_hosts: tuple[str, ...]
    allowed_origins: tuple[str, ...]
    login_alerts_hostname: str
    login_alerts_port: int
    metrics_hostname: str
    metrics_port: int
    log_format: str
    """PLAIN, JSON, or "" for plain on a terminal and JSON otherwise."""
    log_level: str
    use_logger: bool
    log_headers: bool
    log_body: bool
    footfall_debug_answers: bool

    @property
    def topics_folder(self) -> Path | None:
        """Return the folder of embedded topics; None where topics are in Kafka."""
        return _file(self.topics_url, addresses.TOPICS_TAKES)

    @property
    def kafka_hosts(self) -> tuple[Host, ...]:
        """Return the brokers of Kafka; empty where topics are embedded."""
        url = self.topics_url
        return addresses.kafka_hosts(url) if scheme_of(url) == "kafka" else ()

    @property
    def kafka_bootstrap(self) -> str | None:
        """Return ``host:port`` of Kafka, several with commas; None where topics are embedded."""
        return ",".join(map(addresses.shown_host, self.kafka_hosts)) or None

    @property
    def store_file(self) -> Path | None:
        """Return the file of the store; None where it is PostgreSQL."""
        return _file(self.postgres_url, STORE_TAKES)

    @property
    def profiles_file(self) -> Path | None:
        """Return the file of the profiles; None where they are in Aerospike."""
        return _file(self.profiles_url, addresses.PROFILES_TAKES)


def read_settings(environ: Mapping[str, str] | None = None) -> Settings:
    """Return the settings from the environment (or, for a test, from a mapping).

    Raises SettingError with one line that names the variable and what it takes, and shows its
    value unless that may hold a password: no address is shown.
    """
    env = os.environ if environ is None else environ
    home = Path(env.get("FOOTFALL_HOME") or ".footfall").absolute()
    values: dict[str, Any] = {"footfall_home": home}
    for name, variable, default, parse in _variables(env, home):
        text = env.get(variable, "")
        values[name] = _parsed(variable, text, parse) if text else default
    assert values.keys() == {field.name for field in fields(Settings)}
    settings = Settings(**values)
    if settings.aerospike_aggregates and settings.profiles_file is not None:
        raise SettingError(
            f"AEROSPIKE_AGGREGATES={env['AEROSPIKE_AGGREGATES']!r}: takes its server from "
            "PROFILES_URL, which must then be aerospike://... and is sqlite://..."
        )
    return settings


Parser = Callable[[str], Any]

_MAY_HOLD_A_PASSWORD = re.compile(r"[@?=]")
"""Pattern of a value that may be the URL of another variable."""


def _parsed(variable: str, text: str, parse: Parser) -> Any:
    """Return the value of a variable. Raises SettingError."""
    try:
        return parse(text)
    except ValueError as error:
        is_hidden = isinstance(error, AddressError) or _MAY_HOLD_A_PASSWORD.search(text)
        shown = "" if is_hidden else f"={text!r}"
        raise SettingError(f"{variable}{shown}: {error}") from None


def _variables(env: Mapping[str, str], home: Path) -> list[tuple[str, str, Any, Parser]]:
    topics_default = addresses.file_url(home / "topics")
    if brokers := env.get("KAFKA_BOOTSTRAP_SERVERS"):
        hosts = _parsed("KAFKA_BOOTSTRAP_SERVERS", brokers, addresses.broker_hosts)
        topics_default = addresses.kafka_url(hosts)
    port = env.get("AEROSPIKE_PORT") or str(addresses.AEROSPIKE_PORT)
    number = _parsed("AEROSPIKE_PORT", port, _integer(1, 65_535))
    profiles_default = addresses.sqlite_url(home / "profiles.sqlite")
    if names := env.get("AEROSPIKE_HOSTNAME"):
        profiles_default = _parsed(
            "AEROSPIKE_HOSTNAME", names, lambda text: addresses.aerospike_url(text, number)
        )
    positive = _integer(1, 10_000_000)
    return [
        (
            "topics_url",
            "TOPICS_URL",
            topics_default,
            _url(addresses.TOPICS_TAKES, "file", addresses.kafka_hosts),
        ),
        ("topics_retention_h", "TOPICS_RETENTION_H", None, _integer(1, 876_000)),
        (
            "topics_retention_bytes",
            "TOPICS_RETENTION_BYTES",
            RETENTION_BYTES,
            _integer(1_000_000, 2**60),
        ),
        (
            "clickhouse_url",
            "CLICKHOUSE_URL",
            "http://127.0.0.1:8123",
            _url(CLICKHOUSE_TAKES, "no file", clickhouse_address),
        ),
        (
            "postgres_url",
            "POSTGRES_URL",
            addresses.sqlite_url(home / "store.sqlite"),
            _url(STORE_TAKES, "sqlite", postgres_address),
        ),
        (
            "profiles_url",
            "PROFILES_URL",
            profiles_default,
            _url(addresses.PROFILES_TAKES, "sqlite", addresses.aerospike_hosts),
        ),
        ("kafka_topic", "KAFKA_TOPIC", "", str),
        ("kafka_group", "KAFKA_GROUP", "footfall", str),
        ("kafka_consumer_id", "KAFKA_CONSUMER_ID", "footfall", str),
        ("kafka_poll_timeout_ms", "KAFKA_POLL_TIMEOUT", 100, _integer(1, 60_000)),
        ("kafka_max_poll_records", "KAFKA_MAX_POLL_RECORDS", 16_384, positive),
        # Confluent's serializers write the id of a schema before each record.
        ("kafka_wire_format", "KAFKA_WIRE_FORMAT", "PLAIN", _one_of("PLAIN", "CONFLUENT")),
        ("aerospike_profiles_namespace", "AEROSPIKE_PROFILES_NAMESPACE", "profiles", str),
        ("aerospike_aggregates", "AEROSPIKE_AGGREGATES", False, _switch),
        ("aerospike_aggregates_namespace", "AEROSPIKE_AGGREGATES_NAMESPACE", "aggregates", str),
        ("aerospike_profiles_bin", "AEROSPIKE_PROFILES_BIN", "tags", _bin_name),
        ("aerospike_commit_level", "AEROSPIKE_COMMIT_LEVEL", "ALL", _one_of("ALL", "MASTER")),
        (
            "aerospike_generation_policy",
            "AEROSPIKE_GENERATION_POLICY",
            "NONE",
            _one_of("EQ", "GT", "NONE"),
        ),
        ("aerospike_buckets_per_key", "AEROSPIKE_BUCKETS_PER_KEY", 60, _integer(1, 1440)),
        ("num_tags_to_keep", "NUM_TAGS_TO_KEEP", 200, _integer(1, 100_000)),
        # ClickHouse removes rows of single records this long after their event time, by the
        # server's clock, and rows of 2019 at once; 0 keeps them. `footfall init` puts it into
        # force.
        ("raw_rows_ttl_days", "RAW_ROWS_TTL_DAYS", 0, _integer(0, 36_500)),
        ("max_parallel_writes", "MAX_PARALLEL_WRITES", 6, _integer(1, 256)),
        ("default_limit", "DEFAULT_LIMIT", 200, _integer(0, 100_000)),
        ("input_file_name", "INPUT_FILE_NAME", "", str),
        (
            "producer_data_sec_per_real_sec",
            "PRODUCER_DATA_SEC_PER_REAL_SEC",
            1.0,
            _number(0.001, 86_400.0),
        ),
        (
            "producer_startup_delay_s",
            "PRODUCER_STARTUP_DELAY_IN_SEC",
            0.0,
            _number(0.0, 86_400.0),
        ),
        ("print_producer_logs", "PRINT_PRODUCER_LOGS", False, _switch),
        ("frontend_hostname", "FRONTEND_HOSTNAME", "127.0.0.1", str),
        ("frontend_port", "FRONTEND_PORT", 8080, _integer(0, 65_535)),
        # Names by which the api may be called, besides localhost and the address it listens on.
        ("allowed_hosts", "ALLOWED_HOSTS", (), _several(_host)),
        # Pages of these origins may send to the api and read its answers.
        ("allowed_origins", "ALLOWED_ORIGINS", (), _several(_origin)),
        # Address at which a worker of login_alerts shows a user's state; number i takes the port
        # plus i.
        ("login_alerts_hostname", "LOGIN_ALERTS_HOSTNAME", "127.0.0.1", str),
        ("login_alerts_port", "LOGIN_ALERTS_PORT", 6066, _integer(0, 65_000)),
        # Address at which a worker, and `footfall observe`, serve /metrics. Worker i of a flow
        # takes the port plus i; 0 is any free port.
        ("metrics_hostname", "METRICS_HOSTNAME", "127.0.0.1", str),
        ("metrics_port", "METRICS_PORT", 0, _integer(0, 65_000)),
        ("log_format", "LOG_FORMAT", "", _one_of("PLAIN", "JSON")),
        ("log_level", "LOG_LEVEL", "INFO", _one_of("DEBUG", "INFO", "WARNING", "ERROR")),
        ("use_logger", "USE_LOGGER", False, _switch),
        ("log_headers", "LOG_HEADERS", False, _switch),
        ("log_body", "LOG_BODY", False, _switch),
        ("footfall_debug_answers", "FOOTFALL_DEBUG_ANSWERS", False, _switch),
    ]


def _integer(low: int, high: int) -> Parser:
    return _within(int, low, high, f"takes a whole number from {low} to {high}")


def _number(low: float, high: float) -> Parser:
    return _within(float, low, high, f"takes a number from {low:g} to {high:g}")


def _within(kind: Callable[[str], float], low: float, high: float, wanted: str) -> Parser:
    def parse(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            raise ValueError(wanted) from None
        if not low <= value <= high:
            raise ValueError(wanted)
        return value

    return parse


def _one_of(*choices: str) -> Parser:
    def parse(text: str) -> str:
        if text.upper() not in choices:
            raise ValueError(f"takes one of {', '.join(choices)}")
        return text.upper()

    return parse


def _file(url: str, takes: str) -> Path | None:
    """Return the path of a URL that names a file or folder, else None."""
    is_file = scheme_of(url) in ("file", "sqlite")
    return addresses.path_of(url, takes) if is_file else None


def _url(takes: str, file: str, server: Callable[[str], object]) -> Parser:
    """Return a parser of the URL of a file, by its scheme, or of a server, by its reader."""

    def parse(text: str) -> str:
        _file(text, takes) if scheme_of(text) == file else server(text)
        return text

    return parse


def _several(parse: Parser) -> Parser:
    """Return a parser of values with commas between them."""

    def parse_all(text: str) -> tuple[Any, ...]:
        return tuple(parse(part.strip()) for part in text.split(",") if part.strip())

    return parse_all


def _host(text: str) -> str:
    name = text[1:-1] if text[:1] == "[" and text[-1:] == "]" else text
    if name != "*" and not re.fullmatch(r"[\w.-]+|[0-9a-fA-F:.]+", name, re.ASCII):
        raise ValueError("takes names of hosts like shop.example, without a port, or *")
    return name.lower().rstrip(".")


def _origin(text: str) -> str:
    parts = urlsplit(text.lower())
    shape = "takes origins like https://shop.example, as a browser names them, or *"
    try:
        port = parts.port
    except ValueError:
        raise ValueError(shape) from None
    if text == "*":
        return text
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username is not None:
        raise ValueError(shape)
    if parts.path.strip("/") or parts.query or parts.fragment:
        raise ValueError(f"{shape}: without a path")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    # Browsers leave out the default port of a scheme.
    is_default = port in (None, {"http": 80, "https": 443}[parts.scheme])
    return f"{parts.scheme}://{host}" + ("" if is_default else f":{port}")


def _switch(text: str) -> bool:
    lower = text.lower()
    if lower in ("1", "true", "yes", "on"):
        return True
    if lower in ("0", "false", "no", "off"):
        return False
    raise ValueError("takes 1 or 0")


def _bin_name(text: str) -> str:
    if not 1 <= len(text.encode()) <= 15:
        raise ValueError("takes a name of at most 15 bytes (Aerospike's limit for bins)")
    return text
