"""The OpenAPI 3.1 description, built from the structs that check what comes in."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Struct

from footfall.api.aggregates import ACTIONS, AGGREGATES, FILTERS, MINUTES_MAX
from footfall.api.aggregates import SHAPE as MINUTES_SHAPE
from footfall.api.lookups import ID_CHARS_MAX, RequestTrace, UserTrail
from footfall.api.profiles import SHAPE as PROFILE_SHAPE
from footfall.api.records import INCOMING
from footfall.api.snapshot import Snapshot
from footfall.schemas import shop_events
from footfall.schemas.client_reports import ClientReport
from footfall.schemas.platform_logs import PlatformLog
from footfall.schemas.store_events import StoreEvent
from footfall.schemas.user_tags import UserTag


class Error(Struct, frozen=True):
    """The reason why a request was not served, after the field or parameter that is wrong."""

    error: str


class Stored(Struct, frozen=True):
    """The number of records that are durable now."""

    stored: int


class Profile(Struct, frozen=True):
    """The newest tags of a cookie, newest first."""

    cookie: str
    views: list[UserTag]
    buys: list[UserTag]


class Aggregates(Struct, frozen=True):
    """A row for every minute asked for; every value is a string."""

    columns: list[str]
    rows: list[list[str]]


class Ready(Struct, frozen=True):
    """The state of each part: ``ok``, or what is wrong with it."""

    ready: bool
    parts: dict[str, str]


RECORDS: tuple[type[Struct], ...] = (
    UserTag,
    StoreEvent,
    PlatformLog,
    *shop_events.STRUCTS.values(),
    ClientReport,
)
"""The records that ``POST /events/{topic}`` takes, each in its topic."""

STRUCTS: tuple[type[Struct], ...] = (
    *RECORDS,
    Error,
    Stored,
    Profile,
    Aggregates,
    Ready,
    Snapshot,
    RequestTrace,
    UserTrail,
)

Json = dict[str, Any]

EXAMPLES: dict[type[Struct], Json] = {
    UserTag: {
        "time": "2022-03-22T12:15:00.000Z",
        "cookie": "cookie-1",
        "country": "PL",
        "device": "PC",
        "action": "VIEW",
        "origin": "ORIGIN_1",
        "product_info": {
            "product_id": "1",
            "brand_id": "BRAND_1",
            "category_id": "CATEGORY_1",
            "price": 1999,
        },
    },
    ClientReport: {
        "time": "2022-03-22T12:15:00.000Z",
        "client_id": "client-1",
        "report": {"page": "/"},
    },
}
"""The bodies that the viewer offers to send."""


def openapi(version: str) -> Json:
    """Return the document as plain values."""
    _, components = msgspec.json.schema_components(
        STRUCTS, ref_template="#/components/schemas/{name}"
    )
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Footfall",
            "version": version,
            "description": "Events in, profiles and aggregates out. Times are UTC.",
        },
        "paths": _paths(),
        "components": {"schemas": components},
    }


def _paths() -> Json:
    return {
        "/user_tags": {"post": _one_record("Store a view or a buy", UserTag)},
        "/user_profiles/{cookie}": _both("The newest tags of a cookie", _PROFILE, Profile),
        "/aggregates": _both("Count and revenue by minute", _AGGREGATES, Aggregates),
        "/events/{topic}": {"post": _events()},
        "/api/visit/v1/": {"post": _one_record("Store a visit report", ClientReport)},
        "/api/activity/v1/": {"post": _one_record("Store an activity report", ClientReport)},
        "/live.json": {
            "get": {
                **_operation("What the live page shows", {"200": _json(Snapshot)}),
                "parameters": [_query("since", _SINCE, {"type": "string"})],
            }
        },
        "/live/requests/{request_id}": {
            "get": _lookup("The steps of one request", "request_id", RequestTrace)
        },
        "/live/users/{user_id}": {
            "get": _lookup("The newest records of one user", "user_id", UserTrail)
        },
        "/healthz": {"get": _operation("Does the process serve?", {"200": _plain("It does")})},
        "/readyz": {
            "get": _operation(
                "Does all that the api needs work? It says nothing of the flows",
                {"200": _json(Ready), "503": _json(Ready)},
            )
        },
        "/metrics": {"get": _operation("For Prometheus", {"200": _plain("Metrics as text")})},
    }


def _operation(summary: str, responses: Json) -> Json:
    return {"summary": summary, "responses": responses}


def _ref(struct: type[Struct]) -> Json:
    return {"$ref": f"#/components/schemas/{struct.__name__}"}


def _json(struct: type[Struct]) -> Json:
    about = (struct.__doc__ or "").strip().split("\n")[0]
    return {"description": about, "content": {"application/json": {"schema": _ref(struct)}}}


def _plain(about: str) -> Json:
    return {"description": about}


_WRONG: Json = {"400": _json(Error)}
_NOT_TAKEN: Json = {status: _json(Error) for status in ("403", "408", "413", "415")}
"""A foreign page or topic, a body that stalls, one that is too large, an unknown encoding."""
_DOWN: Json = {"503": _json(Error)}


def _one_record(summary: str, struct: type[Struct]) -> Json:
    return {
        **_operation(
            summary,
            {"204": _plain("It is durable"), **_WRONG, **_NOT_TAKEN, **_DOWN},
        ),
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": _ref(struct), "example": EXAMPLES[struct]}},
        },
    }


def _events() -> Json:
    record: Json = {"anyOf": [*map(_ref, RECORDS)]}
    either = {"anyOf": [record, {"type": "array", "items": record}]}
    responses = {
        "200": _json(Stored),
        **_WRONG,
        **_NOT_TAKEN,
        "404": _json(Error),
        **_DOWN,
    }
    return {
        **_operation("Store one record, an array of them, or NDJSON: all or none", responses),
        "parameters": [
            {**_path("topic", "Where to store them"), "schema": _choice(*sorted(INCOMING))}
        ],
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {"schema": either, "example": [EXAMPLES[UserTag]]},
                "application/x-ndjson": {"schema": {"type": "string"}},
            },
        },
    }


def _lookup(summary: str, name: str, struct: type[Struct]) -> Json:
    """Describe a lookup. An unknown id is not an error: its lists are empty."""
    return {
        **_operation(summary, {"200": _json(struct), **_WRONG, **_DOWN}),
        "parameters": [_path(name, f"Any text of up to {ID_CHARS_MAX} characters")],
    }


def _both(summary: str, parameters: list[Json], struct: type[Struct]) -> Json:
    """Describe POST and GET, which do the same; the body of a POST is ignored."""
    operation = {
        **_operation(summary, {"200": _json(struct), **_WRONG, **_DOWN}),
        "parameters": parameters,
    }
    return {"post": operation, "get": operation}


def _choice(*values: str) -> Json:
    return {"type": "string", "enum": list(values)}


def _path(name: str, about: str) -> Json:
    return {
        "name": name,
        "in": "path",
        "required": True,
        "description": about,
        "schema": {"type": "string"},
    }


def _query(name: str, about: str, schema: Json, required: bool = False) -> Json:
    return {
        "name": name,
        "in": "query",
        "required": required,
        "description": about,
        "schema": schema,
    }


_SINCE = "ETag of a snapshot that is at hand: what changed is sent alone, as a patch"
_PROFILE = [
    _path("cookie", "Whose tags"),
    _query("time_range", f"{PROFILE_SHAPE}; the end is excluded", {"type": "string"}, True),
    _query("limit", "At most so many views, and as many buys", {"type": "integer", "minimum": 0}),
]
_AGGREGATES = [
    _query(
        "time_range",
        f"{MINUTES_SHAPE}: at most {MINUTES_MAX} whole minutes",
        {"type": "string"},
        True,
    ),
    _query("action", "What is counted", _choice(*ACTIONS), True),
    _query(
        "aggregates",
        "One or both; repeated, their columns stand in this order",
        {"type": "array", "items": _choice(*AGGREGATES), "minItems": 1},
        True,
    ),
    *(_query(name, "Only these", {"type": "string"}) for name in FILTERS),
]
