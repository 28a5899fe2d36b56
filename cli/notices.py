"""Takes the messages of Alertmanager's webhook, and says each alert that begins or ends."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

BODY_BYTES_MAX = 10_000_000
READ_WITHIN_S = 10.0


class Notices:
    """Says each alert once, though Alertmanager sends a group again whenever one of it changes."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._lock = threading.Lock()
        self._firing: set[str] = set()

    def take(self, message: Any) -> None:
        """Take a message of the webhook. Raises KeyError or TypeError for anything else."""
        with self._lock:
            for alert in message["alerts"]:
                which, is_firing = alert["fingerprint"], alert["status"] == "firing"
                if is_firing != (which in self._firing):
                    (self._firing.add if is_firing else self._firing.discard)(which)
                    self._say(line_of(alert))


def line_of(alert: Any) -> str:
    """Return an alert as a line: its state, its severity, what is wrong, what to read."""
    labels, said = alert["labels"], alert["annotations"]
    state = f"fires ({labels['severity']})" if alert["status"] == "firing" else "has ended"
    more = f": {said['description']} See {said['runbook']}" if alert["status"] == "firing" else ""
    return f"alert {labels['alertname']} {state}: {said['summary']}{more}"


@contextmanager
def receiving(say: Callable[[str], None], port: int) -> Iterator[None]:
    """Listen on loopback for a while. Raises OSError where the port is taken."""
    notices = Notices(say)

    class Handler(BaseHTTPRequestHandler):
        timeout = READ_WITHIN_S

        def do_POST(self) -> None:
            """Answer 400 to anything but a message: Alertmanager then says so in its log."""
            try:
                length = min(int(self.headers["Content-Length"]), BODY_BYTES_MAX)
                notices.take(json.loads(self.rfile.read(length)))
                self.send_response(200)
            except (ValueError, KeyError, TypeError):
                self.send_response(400)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing but alerts."""

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    threading.Thread(target=server.serve_forever, name="notices", daemon=True).start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
