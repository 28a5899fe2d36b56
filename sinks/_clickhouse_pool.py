"""The connections of a ClickHouse client."""

from __future__ import annotations

import io
from functools import partial
from pathlib import Path
from typing import Any

import urllib3
from clickhouse_connect.driver.httputil import check_env_proxy, get_pool_manager

from footfall.schemas.database_addresses import ClickHouseAddress
from footfall.schemas.embedded_clickhouse import own_headers
from footfall.sinks._clickhouse_errors import error_in_body

_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})


class Pool:
    """The connections of a client. It sends inserts piece by piece and reads their answers.

    The client itself takes a 200 for a success. But a server, or a balancer before it, may say 200
    and then that the insert failed. The answer to an insert that succeeded is empty.
    """

    def __init__(self, address: ClickHouseAddress, home: Path | None = None) -> None:
        """Make the pool. ``home`` may hold the password of its own embedded server."""
        self._password = partial(own_headers, home, address)
        options: dict[str, Any] = {}
        # A proxy of the environment does not reach this machine's loopback.
        if address.host not in _LOOPBACK:
            proxy = check_env_proxy(address.scheme, address.host, address.port)
            options = {f"{address.scheme}_proxy": proxy} if proxy else {}
        if (context := address.tls()) is not None:
            options |= {"ssl_context": context, "verify": address.verify}
            if not address.verify:
                # Whoever wrote verify=0 needs no warning.
                urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)
        self._pool = get_pool_manager(**options)

    def request(self, method: str, url: str, **options: Any) -> Any:
        """Do as urllib3.PoolManager does. Raises DatabaseError for an insert that failed after
        all."""
        options["headers"] = {**options.get("headers", {}), **self._password()}
        body = options.get("body")
        if not (isinstance(body, bytes) and body.startswith(b"INSERT INTO ")):
            return self._pool.request(method, url, **options)
        # The body is sent piece by piece: the time to connect also limits one sending, which is
        # too short for a large block to a server that reads only as fast as it can insert.
        options["headers"]["Content-Length"] = str(len(body))
        options["body"] = io.BytesIO(body)
        response = self._pool.request(method, url, **options)
        if response.status == 200 and response.data:
            raise error_in_body(response.data)
        return response

    def clear(self) -> None:
        """Close the connections that are idle."""
        self._pool.clear()
