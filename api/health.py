"""``/healthz``: the process serves. ``/readyz``: what it needs works, each part by name.

Flows are not part of it: a load balancer must not drop the server because a worker is dead.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping

from footfall.api.answers import Answer, Receive, RequestError, Scope, encode_json
from footfall.api.writing import NotStoredError
from footfall.sinks import SinkError

CHECK_WITHIN_S = 3.0

Check = Callable[[], Awaitable[None]]
"""A check that returns where the part works; else RequestError, NotStoredError or SinkError."""


async def healthy(scope: Scope, receive: Receive) -> Answer:
    """Answer 200 as long as the event loop turns."""
    return Answer(200, b'{"status":"ok"}')


class Readiness:
    """Checks all parts at once."""

    def __init__(self, checks: Mapping[str, Check]) -> None:
        self._checks = checks

    async def handle(self, scope: Scope, receive: Receive) -> Answer:
        found = await asyncio.gather(*map(state_of, self._checks.values()))
        parts = dict(zip(self._checks, found, strict=True))
        ready = all(state == "ok" for state in parts.values())
        return Answer(200 if ready else 503, encode_json({"ready": ready, "parts": parts}))


async def state_of(check: Check, within_s: float = CHECK_WITHIN_S) -> str:
    """Return "ok", or why the part does not work."""
    try:
        async with asyncio.timeout(within_s):
            await check()
    except RequestError as error:
        return error.message
    except (NotStoredError, SinkError) as error:
        return str(error)
    except TimeoutError:
        return f"no answer within {within_s:g} s"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "ok"
