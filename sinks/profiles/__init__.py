"""Profiles: the newest VIEWs and, separately, the newest BUYs per cookie.

SqliteProfiles      the embedded twin, a file
AerospikeProfiles   a server
"""

from __future__ import annotations

from typing import Protocol

import polars as pl


class ProfileStore(Protocol):
    """A store of tags as they were sent; may be shared by threads.

    A tag is identified by (time, topic, partition, offset), and tags are ordered by that. Putting
    a tag again changes nothing, and the order of puts does not matter.
    """

    def put(self, tags: pl.DataFrame) -> None:
        """Add tags, columns as ``schemas.profiles.COLUMNS``; return when they are durable.

        The newest VIEWs and the newest BUYs of each cookie are kept. Raises SinkUnavailableError
        after bounded retries, and SinkRefusedError; some of the tags may be there then.
        """

    def get(
        self, cookie: str, from_ms: int, to_ms: int, limit: int
    ) -> tuple[list[bytes], list[bytes]]:
        """Return (views, buys) of a cookie, newest first, at most ``limit`` of each, as sent.

        ``from_ms`` is inclusive, ``to_ms`` exclusive. Returns two empty lists for an unknown
        cookie. Raises SinkError within seconds.
        """

    def recent(self) -> list[pl.DataFrame]:
        """Return the tags that a server which is killed may not have kept."""

    def restore(self, tags: pl.DataFrame) -> None:
        """Put soon what was ``recent`` when an earlier process ended."""

    def settle(self) -> None:
        """Return when all that was put outlasts the death of a server. Raises SinkError."""

    def close(self) -> None:
        """Release connections. Never raises."""
