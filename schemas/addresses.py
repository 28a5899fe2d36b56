"""Addresses of servers and files, read from the URLs of the settings.

An AddressError says what is wrong without any part of the URL, because any part may be a password
in the wrong place.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Collection, Iterable, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote, unquote, unquote_to_bytes

KAFKA_PORT, AEROSPIKE_PORT = 9092, 3000
LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
ANY_HOST = "*"

PROFILES_TAKES = "takes aerospike://host:port or sqlite:///file"
TOPICS_TAKES = "takes kafka://host:port or file:///folder"
BROKERS_TAKE = "takes host:port, several with commas"
KAFKA_NAME = "mend KAFKA_BOOTSTRAP_SERVERS or TOPICS_URL, or the DNS that this machine asks"
AEROSPIKE_NAME = "mend the host in PROFILES_URL, or the DNS that this machine asks"
AEROSPIKE_TAKES = "takes a host, or several with commas, each with or without :port"

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_HOST = re.compile(r"(?:\[([0-9A-Fa-f:.]+(?:%\w+)?)\]|([\w.-]+))(?::([0-9]+))?")

Host = tuple[str, int]
"""Host name or number, and port."""
_led_somewhere: set[str] = set()
"""Names that have had an address since this process began: their server may be restarting."""


class AddressError(ValueError):
    """A text that is not an address; the message says what is taken, and shows no part of it."""


def scheme_of(url: str) -> str:
    """Return what is before ``://``, in lower case; "" where that is missing."""
    found = _SCHEME.match(url)
    return found[1].lower() if found else ""


def shown_host(host: Host) -> str:
    """Return ``host:port``."""
    name, port = host
    return f"[{name}]:{port}" if ":" in name else f"{name}:{port}"


def unresolved(hosts: Iterable[Host]) -> str | None:
    """Return the names, if no host has or ever had an address; else None."""
    names = []
    for name, port in hosts:
        try:
            if name not in _led_somewhere:
                socket.getaddrinfo(name, port, type=socket.SOCK_STREAM)
        except (socket.gaierror, UnicodeError):
            names.append(name)
        else:
            _led_somewhere.add(name)
            return None
    return ", ".join(dict.fromkeys(names))


# Files.


def file_url(folder: Path) -> str:
    """Return the URL of a folder, whatever its name."""
    return f"file://{quote(os.fsencode(folder))}"


def sqlite_url(file: Path) -> str:
    """Return the URL of a file of SQLite, whatever its name."""
    return f"sqlite:///{quote(os.fsencode(file))}"


def path_of(url: str, takes: str) -> Path:
    """Return the path of a ``file://`` or ``sqlite:///`` URL; percent-escapes are decoded."""
    path = url.partition("://")[2]
    is_whole = path.startswith("/")
    if scheme_of(url) == "sqlite":
        path = path[1:]
        if not is_whole or path.strip("/") in ("", ":memory:"):
            raise AddressError(f"{takes}; sqlite:// needs the path of a file, after three slashes")
    elif not is_whole or not path.strip("/"):
        raise AddressError(f"{takes}; file:// needs the whole path of a folder")
    if "?" in path:
        raise AddressError(f"{takes}; a ? in a path is written %3F, and no options are taken")
    found = unquote_to_bytes(os.fsencode(path))
    if b"\0" in found:
        raise AddressError(f"{takes}; no path has a %00")
    return Path(os.fsdecode(found))


# Servers with several hosts.


def kafka_hosts(url: str) -> tuple[Host, ...]:
    """Return the brokers of a ``kafka://`` URL."""
    parts = split_url(url, TOPICS_TAKES, "kafka")
    if parts.user or parts.password:
        raise AddressError(f"{TOPICS_TAKES}, without a user: SASL cannot be used yet")
    parts.need_nothing_after(TOPICS_TAKES)
    return hosts_in(parts.hosts, KAFKA_PORT, TOPICS_TAKES)


def broker_hosts(text: str) -> tuple[Host, ...]:
    """Return the brokers of a list; each may begin with ``PLAINTEXT://``."""
    items = []
    for item in text.split(","):
        listener, separator, host = item.strip().rpartition("://")
        if separator and listener.upper() != "PLAINTEXT":
            raise AddressError(
                f"{BROKERS_TAKE}: SASL_SSL:// and the like name a listener and are not part of "
                "an address; PLAINTEXT:// alone may stand there, as TLS and SASL cannot be used "
                "yet"
            )
        items.append(host)
    return hosts_in(",".join(items), KAFKA_PORT, BROKERS_TAKE)


def kafka_url(hosts: Sequence[Host]) -> str:
    """Return the ``kafka://`` URL of brokers."""
    return f"kafka://{','.join(map(shown_host, hosts))}"


def aerospike_hosts(url: str) -> tuple[Host, ...]:
    """Return the nodes of an ``aerospike://`` URL."""
    parts = split_url(url, PROFILES_TAKES, "aerospike")
    if parts.user or parts.password:
        raise AddressError(f"{PROFILES_TAKES}, without a user: they cannot be used yet")
    parts.need_nothing_after(PROFILES_TAKES)
    return hosts_in(parts.hosts, AEROSPIKE_PORT, PROFILES_TAKES)


def aerospike_url(names: str, port: int) -> str:
    """Return the ``aerospike://`` URL of a list of nodes, with a port for those without one."""
    return f"aerospike://{','.join(map(shown_host, hosts_in(names, port, AEROSPIKE_TAKES)))}"


# Parts of URLs.


class UrlParts(NamedTuple):
    """The URL of a server; user and password are decoded."""

    scheme: str
    user: str
    password: str
    hosts: str
    after: str
    """Path, and what follows it."""

    def need_nothing_after(self, takes: str) -> None:
        """Raise AddressError where something follows the hosts."""
        if self.after.strip("/"):
            raise AddressError(f"{takes}, and nothing after that")


def split_url(url: str, takes: str, *schemes: str) -> UrlParts:
    """Return the parts of a URL with one of these schemes."""
    scheme = scheme_of(url)
    if scheme not in schemes:
        raise AddressError(takes)
    if re.search(r"[\s\x00-\x1f]", url):
        raise AddressError(f"{takes}; a space is written %20, and a line end has no place in it")
    rest = url.partition("://")[2]
    head = re.split(r"[/?#]", rest, maxsplit=1)[0]
    if "@" in rest[len(head) :] or rest[len(head) :].startswith("#"):
        raise AddressError(
            f"{takes}; in a user or password / ? # @ : and % are written as %2F %3F %23 %40 %3A "
            "and %25, and an @ that stands further behind as %40"
        )
    if "#" in rest:
        raise AddressError(f"{takes}; a # is written %23")
    login, _, hosts = head.rpartition("@")
    user, _, password = login.partition(":")
    if "@" in login:
        raise AddressError(f"{takes}; an @ in a user or password is written %40")
    return UrlParts(
        scheme, decoded(user, takes), decoded(password, takes), hosts, rest[len(head) :]
    )


def decoded(text: str, takes: str) -> str:
    """Return a text without its percent-escapes."""
    if re.search(r"%(?![0-9A-Fa-f]{2})", text):
        raise AddressError(f"{takes}; a % is written %25")
    try:
        found = unquote(text, errors="strict")
    except UnicodeDecodeError:
        found = "\0"
    if "\0" in found:
        raise AddressError(f"{takes}; percent-escapes are of UTF-8")
    return found


def hosts_in(text: str, port: int, takes: str) -> tuple[Host, ...]:
    """Return the hosts of a list, with ``port`` for those without a port."""
    found = []
    for item in filter(None, map(str.strip, text.split(","))):
        match = _HOST.fullmatch(item)
        if match is None:
            is_six = item.count(":") > 1
            raise AddressError(
                f"{takes}; an IPv6 address stands in brackets, [::1]:port"
                if is_six
                else f"{takes}; a host is a name or a number, and a port is a number"
            )
        number = int(match[3] or port)
        if not 1 <= number <= 65_535:
            raise AddressError(f"{takes}; a port is a number from 1 to 65535")
        if match[1]:
            try:
                IPv6Address(match[1])
            except ValueError:
                raise AddressError(
                    f"{takes}; what stands in brackets is no IPv6 address"
                ) from None
        found.append((match[1] or match[2], number))
    if not found:
        raise AddressError(f"{takes}, with a host")
    return tuple(found)


# Names of our own servers.


class OwnHosts:
    """Names that a request may call this server by in its header Host.

    A page of another origin can have its own name lead to this machine; the browser then takes the
    server for that page's own. Such a name is not among these.
    """

    def __init__(self, listens_on: str = "127.0.0.1", allowed: Collection[str] = ()) -> None:
        self._is_any = ANY_HOST in allowed
        self._names = LOOPBACK_NAMES | {listens_on.lower()} | set(allowed)
        address = ip_of(listens_on)
        # A server that listens on all of the machine's addresses is known by each of them: a
        # number cannot be made to lead elsewhere, as a name can.
        self._is_any_number = address is not None and address.is_unspecified

    def know(self, host: str) -> bool:
        """Return whether the value of a header Host, with or without a port, is one of ours."""
        if self._is_any:
            return True
        name = _without_port(host).rstrip(".").lower()
        return name in self._names or (self._is_any_number and ip_of(name) is not None)


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]


def ip_of(text: str) -> IPv4Address | IPv6Address | None:
    """Return the IP address that a text is, or None."""
    try:
        return ip_address(text)
    except ValueError:
        return None
