"""The routes. Every handler is in an Endpoint and all are behind the Door, both plain ASGI."""

from __future__ import annotations

import re
from importlib.resources import files

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from footfall.api.aggregates import AggregatesQueries
from footfall.api.answers import Answer, Handler, Receive, Scope
from footfall.api.collect import Collector
from footfall.api.debug_answers import DebugAnswers
from footfall.api.docs import description, docs_files
from footfall.api.door import Door
from footfall.api.endpoint import Endpoint
from footfall.api.files import file_answer, read_files, serve_files, serve_one
from footfall.api.health import Readiness, healthy
from footfall.api.profiles import ProfileQueries
from footfall.api.services import Services


def create_app(services: Services) -> Starlette:
    """Return the application over these services, which the caller opens and closes."""
    metrics = services.metrics
    collector = Collector(services.writing, metrics)

    def debug(route: str) -> DebugAnswers:
        count = metrics.answer_differences.labels(route).inc
        return DebugAnswers(services.debug_answers, count)

    profiles = ProfileQueries(
        services.profiles, services.limit_default, debug("/user_profiles/{cookie}")
    )
    aggregates = AggregatesQueries(services.aggregates, debug("/aggregates"))
    visit, activity = collector.one("visits"), collector.one("activities")

    def route(path: str, handle: Handler, *methods: str, label: str = "") -> Route:
        endpoint = Endpoint(label or path, handle, metrics, services.request_log)
        made = Route(path, endpoint, methods=list(methods or ("GET",)))
        # A cookie or an id may hold a line break, too, and may end in a slash; any other path is
        # the same with a slash at its end and without.
        pattern = made.path_regex.pattern
        if not path.endswith(":path}"):
            pattern = pattern.removesuffix("$").rstrip("/") + "/?$"
        made.path_regex = re.compile(pattern, re.DOTALL)
        return made

    async def exposition(scope: Scope, receive: Receive) -> Answer:
        return Answer(200, *metrics.exposition())

    page = {name: file_answer(name, content) for name, content in _page_files().items()}
    docs = docs_files()
    queries = ("POST", "GET")
    # The busiest first: routes are tried in order.
    routes = [
        route("/user_tags", collector.one("user_tags"), "POST"),
        route(
            "/user_profiles/{cookie:path}",
            profiles.handle,
            *queries,
            label="/user_profiles/{cookie}",
        ),
        route("/aggregates", aggregates.handle, *queries),
        route("/events/{topic}", collector.many, "POST"),
        route("/api/visit/v1/", visit, "POST"),
        route("/api/activity/v1/", activity, "POST"),
        route("/live.json", services.live.handle),
        route(
            "/live/requests/{request_id:path}",
            services.lookups.request,
            label="/live/requests/{request_id}",
        ),
        route("/live/users/{user_id:path}", services.lookups.user, label="/live/users/{user_id}"),
        route("/", serve_one(page["index.html"])),
        route("/static/{path:path}", serve_files(page), label="/static"),
        route("/healthz", healthy),
        route("/readyz", Readiness(services.checks).handle),
        route("/metrics", exposition),
        route("/openapi.json", serve_one(description())),
        route("/docs", serve_one(docs[""])),
        route("/docs/{path:path}", serve_files(docs), label="/docs"),
    ]
    return Starlette(
        routes=routes,
        middleware=[Middleware(Door, services.hosts, services.origins, metrics)],
        exception_handlers={HTTPException: _refuse},
    )


def _page_files() -> dict[str, bytes]:
    return read_files(files("footfall.api") / "static")


async def _refuse(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    reasons = {
        404: f"nothing at {request.scope['path'][:200]}; the routes are at /docs",
        405: f"{request.method} is not for this route",
    }
    reason = reasons.get(error.status_code, error.detail)
    headers = {"x-content-type-options": "nosniff", **(error.headers or {})}
    return JSONResponse({"error": reason}, error.status_code, headers)
