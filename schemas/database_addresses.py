"""Addresses of ClickHouse and PostgreSQL: server, user, and how the connection is secured."""

from __future__ import annotations

import base64
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import quote

from footfall.schemas.addresses import AddressError, decoded, hosts_in, shown_host, split_url

CLICKHOUSE_PORTS = {"http": 8123, "https": 8443}
POSTGRES_PORT = 5432

CLICKHOUSE_TAKES = "takes http://host:port or https://user:password@host:port/database"
STORE_TAKES = "takes sqlite:///file or postgresql://user:password@host:port/database"

_BOOLEANS = {"1": True, "true": True, "0": False, "false": False}


@dataclass(frozen=True, slots=True)
class ClickHouseAddress:
    """The place of a ClickHouse, and how to connect to it, for all clients."""

    scheme: str
    host: str
    port: int
    user: str = ""
    """User's name; empty where the URL names neither a user nor a password."""
    password: str = field(default="", repr=False)
    database: str = ""
    ca_cert: str = ""
    verify: bool = True

    @property
    def origin(self) -> str:
        """Return ``https://host:port``."""
        return f"{self.scheme}://{shown_host((self.host, self.port))}"

    @property
    def headers(self) -> dict[str, str]:
        """Return the headers that say who asks; empty where the URL does not."""
        if not self.user:
            return {}
        credentials = base64.b64encode(f"{self.user}:{self.password}".encode()).decode()
        return {"Authorization": f"Basic {credentials}"}

    def tls(self) -> ssl.SSLContext | None:
        """Return the TLS context of a connection; None without TLS. Raises AddressError."""
        if self.scheme == "http":
            return None
        try:
            context = ssl.create_default_context(cafile=self.ca_cert or None)
        except (OSError, ValueError):
            # ssl.SSLError is an OSError: the file holds no certificate.
            raise AddressError(
                "takes in ?ca_cert= a file with the certificates to trust, as PEM; there is none "
                "at that path"
            ) from None
        if not self.verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context


def clickhouse_address(url: str) -> ClickHouseAddress:
    """Read CLICKHOUSE_URL."""
    takes = CLICKHOUSE_TAKES
    parts = split_url(url, takes, *CLICKHOUSE_PORTS)
    hosts = hosts_in(parts.hosts, CLICKHOUSE_PORTS[parts.scheme], takes)
    if len(hosts) > 1:
        raise AddressError(f"{takes}: a single host")
    path, _, query = parts.after.partition("?")
    database = decoded(path.strip("/"), takes)
    if "/" in path.strip("/"):
        raise AddressError(f"{takes}: one name after the /")
    options = dict(pair.partition("=")[::2] for pair in query.split("&") if pair)
    verify = _BOOLEANS.get(options.pop("verify", "1").lower())
    ca_cert = decoded(options.pop("ca_cert", ""), takes)
    if options or verify is None:
        raise AddressError(
            f"{takes}, and after a ? ca_cert=/path/to/ca.pem and verify=0, which looks at no "
            "certificate; nothing else"
        )
    address = ClickHouseAddress(
        parts.scheme,
        *hosts[0],
        parts.user or ("default" if parts.password else ""),
        parts.password,
        database,
        ca_cert,
        verify,
    )
    if query and parts.scheme == "http":
        raise AddressError(f"{takes}: ca_cert and verify are for https://")
    if ca_cert:
        address.tls()
    return address


@dataclass(frozen=True, slots=True)
class PostgresAddress:
    """The place of a PostgreSQL, as libpq takes it: several hosts, sockets, TLS and options."""

    options: Mapping[str, str] = field(repr=False)
    """Parameters of a connection, by libpq's names."""
    shown: str
    """URL without its password and its options."""


def postgres_address(url: str) -> PostgresAddress:
    """Read POSTGRES_URL where it names a server."""
    from psycopg import ProgrammingError
    from psycopg.conninfo import conninfo_to_dict

    takes = STORE_TAKES
    parts = split_url(url, takes, "postgresql", "postgres", "postgresql+psycopg")
    for host in filter(None, parts.hosts.split(",")):
        # A folder of sockets has its slashes percent-encoded.
        if not host.upper().startswith("%2F"):
            hosts_in(host, POSTGRES_PORT, takes)
    after_scheme = url.partition("://")[2]
    try:
        options = conninfo_to_dict(f"postgresql://{after_scheme}")
    except (ProgrammingError, UnicodeError):
        raise AddressError(
            f"{takes}, and after a ? what PostgreSQL's own clients take, such as "
            "sslmode=verify-full, sslrootcert=/file, options, target_session_attrs; something "
            "else is there"
        ) from None
    if not (options.keys() & {"host", "hostaddr", "service", "dbname"}):
        raise AddressError(f"{takes}, with a host or a database")
    user = f"{quote(str(options['user']))}:***@" if options.get("user") else ""
    database, _, _ = parts.after.partition("?")
    hosts = parts.hosts or quote(str(options.get("host", "")), safe=",")
    kept = {name: str(value) for name, value in options.items()}
    return PostgresAddress(kept, f"postgresql://{user}{hosts}{database}")
