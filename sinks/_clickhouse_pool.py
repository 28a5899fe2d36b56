"""The connections of a ClickHouse client."""

from __future__ import annotations

import io
from functools import partial
from pathlib import Path
from typing import Any

from clickhouse_connect.driver.httputil import check_env_proxy, get_pool_manager

from schemas.embedded_clickhouse import own_headers
from sinks._clickhouse_errors import error_in_body

_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})


class Pool:
    """The connections of a client. It sends inserts piece by piece and reads their answers.

    The client itself takes a 200 for a success, and a server, or a balancer before it, may say
    200 and then that the insert failed. An insert that succeeded has nothing to say.
    """

    def __init__(self, interface: str, host: str, port: int, home: Path | None = None) -> None:
        """``home``: whose own embedded server may be the one, which wants its password."""
        self._password = partial(own_headers, home, host, port)
        # A proxy of the environment does not reach this machine's loopback.
        proxy = None if host in _LOOPBACK else check_env_proxy(interface, host, port)
        self._pool = get_pool_manager(**({f"{interface}_proxy": proxy} if proxy else {}))

    def request(self, method: str, url: str, **options: Any) -> Any:
        """As of urllib3.PoolManager. Raises DatabaseError for an insert that failed after all."""
        options["headers"] = {**options.get("headers", {}), **self._password()}
        body = options.get("body")
        if not (isinstance(body, bytes) and body.startswith(b"INSERT INTO ")):
            return self._pool.request(method, url, **options)
        # Sent piece by piece: the time to connect is also the time that one sending may take,
        # too short for a large block to a server that reads as fast as it can insert.
        options["headers"]["Content-Length"] = str(len(body))
        options["body"] = io.BytesIO(body)
        response = self._pool.request(method, url, **options)
        if response.status == 200 and response.data:
            raise error_in_body(response.data)
        return response

    def clear(self) -> None:
        """Close the connections that are idle."""
        self._pool.clear()
