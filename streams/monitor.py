"""The metrics of a worker for Prometheus, and ``/healthz`` and ``/readyz``, on its own port.

What is counted anyway is read at a scrape; without scrapes this costs nothing.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from socketserver import TCPServer
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.exposition import ThreadingWSGIServer
from prometheus_client.registry import Collector

from footfall.schemas import metrics
from footfall.schemas.metrics import Metric
from footfall.schemas.status import WorkerStatus
from footfall.streams.progress import Place, Progress
from footfall.streams.run import Failures, Retries, WorkerError

ANSWER_WITHIN_S = 10.0
"""Seconds after which a slow client is let go."""
LOOK_EVERY_S = 0.2
"""Seconds within which the server ends when it is told to."""


class PortTakenError(WorkerError):
    """A port for ``/metrics`` that cannot be had; the message says which, and what to do."""


class WorkerCollector(Collector):
    """Collector of a worker's metrics at each scrape."""

    def __init__(
        self,
        flow: str,
        progress: Progress,
        status: Callable[[], WorkerStatus],
        sinks: Callable[[], tuple[Failures, Retries]],
    ) -> None:
        self._flow = flow
        self._progress = progress
        self._status = status
        self._sinks = sinks

    def collect(self) -> Iterator[Any]:
        yield from self._counts()
        yield from self._places()
        yield from self._spreads()
        yield from self._process()

    def _counts(self) -> Iterator[Any]:
        counted = self._progress.counted()
        for metric, name in (
            (metrics.RECORDS_READ, "read"),
            (metrics.RECORDS_USED, "used"),
            (metrics.RECORDS_FILTERED, "filtered"),
            (metrics.RECORDS_LATE, "late"),
            (metrics.READ_BYTES, "size_bytes"),
        ):
            values = ((place, getattr(one, name)) for place, one in counted.items())
            yield self._of_places(metric, values)
        # Every code is there from the first scrape: a counter that appears with a value has no
        # rate.
        dead = metrics.RECORDS_DEAD.family()
        for place, one in counted.items():
            by_code: Mapping[str, int] = one.dead_by_code or {}
            for code in metrics.DEAD_CODES:
                dead.add_metric((*self._labels(place), code), by_code.get(code, 0))
        yield dead
        rows = metrics.ROWS_WRITTEN.family()
        for table, number in self._progress.rows().items():
            rows.add_metric((self._flow, table), number)
        yield rows

    def _places(self) -> Iterator[Any]:
        partitions, _ = self._progress.read()
        by_place = {(one.topic, one.partition): one for one in partitions}
        yield self._of_places(
            metrics.NEXT_OFFSET, ((place, one.next_offset) for place, one in by_place.items())
        )
        yield self._of_places(
            metrics.WATERMARK,
            (
                (place, one.watermark_ms / 1000)
                for place, one in by_place.items()
                if one.watermark_ms >= 0
            ),
        )
        sizes = self._progress.sizes()
        yield self._of_places(
            metrics.STATE_BYTES,
            (
                (place, one.size_bytes)
                for place, one in sizes.items()
                if one.size_bytes is not None
            ),
        )
        items = metrics.STATE_ITEMS.family()
        for place, one in sizes.items():
            for kind, number in one.held.items():
                items.add_metric((*self._labels(place), kind), number)
        yield items

    def _spreads(self) -> Iterator[Any]:
        spreads = self._progress.spreads()
        for metric in metrics.WORKER:
            if metric.kind != "histogram":
                continue
            family = metric.family()
            for (of, topic), spread in spreads.items():
                if of == metric:
                    labels = (self._flow, topic) if topic else (self._flow,)
                    family.add_metric(labels, spread.buckets(), spread.total)
            yield family

    def _process(self) -> Iterator[Any]:
        failures, retries = self._sinks()
        errors = metrics.SINK_ERRORS.family()
        for (server, code), number in sorted(failures.items()):
            errors.add_metric((self._flow, server, code), number)
        yield errors
        again = metrics.SINK_RETRIES.family()
        for server, number in sorted(retries.items()):
            again.add_metric((self._flow, server), number)
        yield again
        status = self._status()
        for metric, value in (
            (metrics.STARTS, status.starts),
            (metrics.START_TIME, status.started_ms / 1000),
            (metrics.CPU_SECONDS, status.cpu_s),
            (metrics.MEMORY_BYTES, status.memory_bytes),
        ):
            family = metric.family()
            family.add_metric((self._flow, str(status.worker)), value)
            yield family

    def _of_places(self, metric: Metric, values: Iterable[tuple[Place, float]]) -> Any:
        family = metric.family()
        for place, value in values:
            family.add_metric(self._labels(place), value)
        return family

    def _labels(self, place: Place) -> tuple[str, str, str]:
        return self._flow, place[0], str(place[1])


class _Handler(WSGIRequestHandler):
    timeout = ANSWER_WITHIN_S

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing: a scrape is not worth a line."""


class _Server(ThreadingWSGIServer):
    daemon_threads = True

    def server_bind(self) -> None:
        # The library's own method asks DNS for the address's name.
        TCPServer.server_bind(self)
        self.server_name = str(self.server_address[0])
        self.server_port = int(self.server_address[1])
        self.setup_environ()


@contextmanager
def serving(
    host: str,
    port: int,
    collectors: Iterable[Collector],
    *,
    why_not_ready: Callable[[], str] = lambda: "",
) -> Iterator[int]:
    """Serve ``/metrics``, ``/healthz`` and ``/readyz`` in a thread; gives the port.

    ``why_not_ready`` returns "" when the worker is ready. Raises PortTakenError.
    """
    registry = CollectorRegistry()
    for collector in collectors:
        registry.register(collector)
    exposition = make_wsgi_app(registry)

    def answer(request: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        path = request["PATH_INFO"].rstrip("/")
        if request["REQUEST_METHOD"] not in ("GET", "HEAD"):
            return _plain(start, "405 Method Not Allowed", "GET only")
        if path == "/metrics":
            found: Iterable[bytes] = exposition(request, start)
            return found
        if path == "/healthz":
            return _plain(start, "200 OK", "ok")
        if path == "/readyz":
            why = why_not_ready()
            return _plain(start, "503 Service Unavailable" if why else "200 OK", why or "ok")
        return _plain(start, "404 Not Found", "/metrics, /healthz and /readyz are here")

    family = socket.AF_INET6 if ":" in host else socket.AF_INET

    class Server(_Server):
        address_family = family

    try:
        server = make_server(host, port, answer, Server, _Handler)
    except OSError as error:
        raise PortTakenError(
            f"METRICS_HOSTNAME and METRICS_PORT: cannot serve /metrics on {host}:{port} "
            f"({error.strerror or error}): choose another METRICS_PORT, or leave it out for any "
            "that is free"
        ) from None
    thread = threading.Thread(
        target=server.serve_forever, args=(LOOK_EVERY_S,), name="metrics", daemon=True
    )
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()


def _plain(start: Callable[..., Any], status: str, text: str) -> Iterable[bytes]:
    body = f"{text}\n".encode()
    start(status, [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]
