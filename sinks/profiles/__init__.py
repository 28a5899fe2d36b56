"""Profiles: per cookie the newest VIEWs and, apart, the newest BUYs.

SqliteProfiles      the embedded twin, a file
AerospikeProfiles   a server
"""

from __future__ import annotations

from typing import Protocol

import polars as pl


class ProfileStore(Protocol):
    """Keeps tags as they were sent; may be shared by threads.

    A tag is identified by (time, topic, partition, offset) and tags are ordered by that. Putting
    one again changes nothing, and the order of puts does not matter.
    """

    def put(self, tags: pl.DataFrame) -> None:
        """Add tags, columns as ``schemas.profiles.COLUMNS``; return when they are durable.

        Of each cookie's VIEWs and of its BUYs the newest are kept. Raises SinkUnavailableError
        after bounded retries, and SinkRefusedError; some of the tags may be there then.
        """

    def get(
        self, cookie: str, from_ms: int, to_ms: int, limit: int
    ) -> tuple[list[bytes], list[bytes]]:
        """(views, buys) of a cookie, newest first, at most ``limit`` of each, as they were sent.

        ``from_ms`` is inclusive, ``to_ms`` exclusive. Two empty lists for a cookie that is not
        known. Raises SinkError within seconds.
        """

    def recent(self) -> list[pl.DataFrame]:
        """The tags that a server which is killed may not have kept."""

    def restore(self, tags: pl.DataFrame) -> None:
        """Put soon what was ``recent`` when an earlier process ended."""

    def settle(self) -> None:
        """Return when all that was put outlasts the death of a server. Raises SinkError."""

    def close(self) -> None:
        """Release connections. Never raises."""
