"""``/user_profiles/{cookie}``: the newest tags of a cookie, spliced in as they were sent."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

from footfall.api.answers import Answer, Receive, RequestError, Scope, encode_json
from footfall.api.debug_answers import DebugAnswers
from footfall.api.parameters import read_parameters, time_range, whole_number
from footfall.sinks import SinkError

THREADS = 4
READS_WAITING_MAX = 500
LIMIT_MAX = 100_000
SHAPE = "<from>_<to> like 2022-03-22T12:15:00.000_2022-03-22T12:30:00.000"

RawTags = Sequence[bytes]


class ProfileStore(Protocol):
    """A profile store as it is read here. It may block, and is called from several threads."""

    def get(self, cookie: str, from_ms: int, to_ms: int, limit: int) -> tuple[RawTags, RawTags]:
        """Return (views, buys), newest first, as they were sent. Raises SinkError."""


class Profiles:
    """Reads a blocking profile store from a few threads; more readers than that wait."""

    def __init__(
        self,
        store: ProfileStore,
        *,
        threads: int = THREADS,
        reads_waiting_max: int = READS_WAITING_MAX,
    ) -> None:
        self._store = store
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="profiles")
        self._reads = 0
        self._reads_max = reads_waiting_max

    async def get(
        self, cookie: str, from_ms: int, to_ms: int, limit: int
    ) -> tuple[RawTags, RawTags]:
        """Return (views, buys). Raises RequestError 503."""
        if self._reads >= self._reads_max:
            raise RequestError(
                503, "too many profile reads wait: try again", ((b"retry-after", b"1"),)
            )
        self._reads += 1
        try:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(
                self._pool, self._store.get, cookie, from_ms, to_ms, limit
            )
        except SinkError as error:
            raise RequestError(503, f"profiles cannot be read: {error}") from None
        finally:
            self._reads -= 1

    async def check(self) -> None:
        """Return if profiles can be read. Raises RequestError."""
        await self.get("", 0, 0, 0)

    def close(self) -> None:
        """Release the threads."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def profile_answer(cookie: str, views: RawTags, buys: RawTags) -> bytes:
    """Return ``{"cookie", "views": [tag...], "buys": [tag...]}`` without decoding a tag."""
    return b'{"cookie":%b,"views":[%b],"buys":[%b]}' % (
        encode_json(cookie),
        b",".join(views),
        b",".join(buys),
    )


class ProfileQueries:
    """The handler of POST and GET."""

    def __init__(self, profiles: Profiles, limit_default: int, debug: DebugAnswers) -> None:
        self._profiles = profiles
        self._limit_default = limit_default
        self._debug = debug

    async def handle(self, scope: Scope, receive: Receive) -> Answer:
        cookie: str = scope["path_params"]["cookie"]
        parameters = read_parameters(scope["query_string"], ("time_range", "limit"))
        from_ms, to_ms = time_range(parameters, SHAPE)
        limit = whole_number(parameters, "limit", self._limit_default, LIMIT_MAX)
        views, buys = await self._profiles.get(cookie, from_ms, to_ms, limit)
        body = profile_answer(cookie, views, buys)
        await self._debug.compare(scope, receive, body)
        return Answer(200, body)
