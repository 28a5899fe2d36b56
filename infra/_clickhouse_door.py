"""Decides who is answered: those who know the server's password, and no page of the web.

A page in the user's browser reaches loopback, too. Its requests are known by their Origin or
Sec-Fetch-Site and, where the page's own name resolves to loopback, by their Host. No refusal
carries ``WWW-Authenticate``: a browser would then ask its user for the password, and send it with
the requests of every page.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import re
from collections.abc import Collection, Mapping

from footfall.infra._clickhouse_errors import Code, failure
from footfall.schemas.embedded_clickhouse import PASSWORD_FILE, USER

LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
HTTP_PORT = 80
"""The port that a Host leaves out."""
_OWN_SITES = ("same-origin", "none")
"""Values of Sec-Fetch-Site; ``none`` means that the user typed the address."""
_PORT = re.compile(r":[0-9]+$")


class Door:
    """The rules of one server."""

    def __init__(self, port: int, password: str, hosts: Collection[str] = ()) -> None:
        """Set the rules. ``hosts``: names beyond loopback's that requests may be sent to, each
        ``name:port``, or ``name`` for all ports."""
        self._password = password.encode()
        self._hosts = {f"{name}:{port}" for name in LOOPBACK} | {host.lower() for host in hosts}
        if port == HTTP_PORT:
            self._hosts |= {*LOOPBACK}
        self._names = {host for host in map(str.lower, hosts) if not _PORT.search(host)}

    def turned_away(self, headers: Mapping[str, str]) -> str | None:
        """Return why a request is refused whoever sends it, or None."""
        host = headers.get("host", "").lower()
        if not self._known(host):
            return (
                f"Requests to {host[:100] or 'no host'} are not answered: ask 127.0.0.1, or start "
                "the server with --allow-host and this name."
            )
        origin = headers.get("origin")
        own = origin is None or self._known(origin.lower().removeprefix("http://"))
        if not own or headers.get("sec-fetch-site", "none") not in _OWN_SITES:
            return "Web pages of other sites are not answered."
        return None

    def _known(self, host: str) -> bool:
        return host in self._hosts or _PORT.sub("", host) in self._names

    def check_password(self, headers: Mapping[str, str], params: Mapping[str, str]) -> None:
        """Raise EngineError unless the request brings the user and the password."""
        user = headers.get("x-clickhouse-user") or params.get("user") or USER
        password = headers.get("x-clickhouse-key") or params.get("password") or ""
        scheme, _, credentials = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "basic":
            user, _, password = _plain(credentials).partition(":")
        given = password.encode(errors="surrogateescape")
        if not hmac.compare_digest(given, self._password) or user != USER:
            reason = (
                f"{user[:100]}: Authentication failed: password is incorrect, or there is no user "
                f"with such name (the user {USER} of this server has the password that lies in "
                f"clickhouse/{PASSWORD_FILE} of its FOOTFALL_HOME; footfall's commands send it "
                "where CLICKHOUSE_URL, if set, is the address that this server has printed)"
            )
            raise failure(Code.AUTHENTICATION_FAILED, reason)


def _plain(credentials: str) -> str:
    try:
        return base64.b64decode(credentials, validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return "?"
