"""The faults of a FaultProxy: those of a ClickHouse server, or of what is before it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress

from tests.fault_proxy import UPSTREAM_TIMEOUT_S, Answer, Exchange, Fault

BALANCER = (
    "<html><head><title>503 Service Temporarily Unavailable</title></head>\r\n<body>\r\n"
    "<center><h1>503 Service Temporarily Unavailable</h1></center>\r\n<hr><center>balancer"
    "</center>\r\n</body>\r\n</html>\r\n"
)
TOO_MANY_PARTS = (
    "Too many parts (3003 with average size of 1.21 MiB) in table 'default.minute_buckets_rows "
    "(3fae1c8e-7d0a-4a63-9f2e-2a54a4a6c8f1)'. Merges are processing significantly slower than "
    "inserts"
)
MEMORY = (
    "(total) memory limit exceeded: would use 3.60 GiB (attempt to allocate chunk of 4.00 MiB), "
    "current RSS: 3.59 GiB, maximum: 3.60 GiB"
)
_TAG = "dpjtmkasnruvxqwe"
"""Marks an error within a body that has begun; a server draws one for each answer."""


def slow_before(seconds: float) -> Fault:
    """Answer late; the insert is done late as well."""

    def act(exchange: Exchange) -> bool:
        exchange.read()
        exchange.wait(seconds)
        with suppress(OSError):
            exchange.send(exchange.forward().wire())
            return True
        return False

    return Fault(f"{seconds:g} s before the insert", act)


def slow_after(seconds: float) -> Fault:
    """Do the insert at once and answer late."""

    def act(exchange: Exchange) -> bool:
        reply = exchange.forward()
        exchange.wait(seconds)
        exchange.send(reply.wire())
        return True

    return Fault(f"{seconds:g} s after the insert", act)


def slow_to_read(times: int, seconds: float) -> Fault:
    """Take a large body in so many parts, with a pause before each."""

    def act(exchange: Exchange) -> bool:
        for part in range(times):
            exchange.wait(seconds)
            exchange.read(exchange.request.length * (part + 1) // times)
        exchange.send(exchange.forward().wire())
        return True

    return Fault("slow to read the body", act)


def answer(
    status: int, text: str, headers: Mapping[str, str] | None = None, name: str = ""
) -> Fault:
    """Answer with this status and text, and do nothing."""

    def act(exchange: Exchange) -> bool:
        exchange.read()
        reply = Answer(status, "Said", tuple((headers or {}).items()), text.encode())
        exchange.send(reply.wire())
        return True

    return Fault(name or f"{status} {text[:20]}", act)


def exception(code: int, name: str, text: str, *, status: int = 500, header: bool = True) -> Fault:
    """Answer with an error in ClickHouse's words; without ``header`` as some proxies pass it
    on."""
    headers = {
        "Content-Type": "text/plain; charset=UTF-8",
        "X-ClickHouse-Server-Display-Name": "shop",
    }
    if header:
        headers["X-ClickHouse-Exception-Code"] = str(code)
    label = f"{status} {name}" + ("" if header else " without its header")
    return answer(status, error_text(code, name, text) + "\n", headers, label)


def error_text(code: int, name: str, text: str) -> str:
    """Return an error as a server words it."""
    return f"Code: {code}. DB::Exception: {text}. ({name}) (version 25.8.2.29 (official build))"


def exception_after_200(
    code: int, name: str, text: str, *, done: bool = False, tagged: bool = True
) -> Fault:
    """Answer 200 with progress, and then the error; with ``done`` the rows are written."""

    def act(exchange: Exchange) -> bool:
        exchange.read()
        begun = b""
        if done or not exchange.request.is_insert:
            begun = exchange.forward().body[:-1]
        error = error_text(code, name, text).encode()
        tag = _TAG.encode()
        ending = b"\r\n__exception__\r\n" + tag + b"\r\n" + error + b"\r\n"
        ending += str(len(error)).encode() + b" " + tag + b"\r\n__exception__\r\n"
        body = begun + (ending if tagged else error)
        head = (
            "HTTP/1.1 200 OK\r\nContent-Type: text/plain; charset=UTF-8\r\n"
            "Transfer-Encoding: chunked\r\nX-ClickHouse-Server-Display-Name: shop\r\n"
            + (f"X-ClickHouse-Exception-Tag: {_TAG}\r\n" if tagged else "")
            + 'X-ClickHouse-Progress: {"read_rows":"1","written_rows":"0"}\r\n\r\n'
        )
        exchange.send(head.encode() + b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body))
        return True

    return Fault(f"200 and then {name}" + (", done" if done else ""), act)


def code_after_200(code: int, name: str) -> Fault:
    """Answer 200 with an empty body and the code in a header, as for a body that came slowly."""
    return answer(200, "", {"X-ClickHouse-Exception-Code": str(code)}, f"200 and the code {name}")


def reset_in_body(after_bytes: int = 1_000) -> Fault:
    """Reset the connection in the middle of the request's body."""

    def act(exchange: Exchange) -> bool:
        exchange.read(min(after_bytes, exchange.request.length - 1))
        exchange.reset()
        return False

    return Fault("reset in the body", act)


def close_after_body(*, done: bool) -> Fault:
    """Close the connection instead of an answer; with ``done`` the rows are written."""

    def act(exchange: Exchange) -> bool:
        exchange.read()
        if done:
            exchange.forward()
        exchange.close()
        return False

    return Fault("closed after the " + ("insert" if done else "body"), act)


def truncated(*, head: bool = False) -> Fault:
    """Write the rows, and break the answer off: in its body, or within its head."""

    def act(exchange: Exchange) -> bool:
        reply = exchange.forward()
        longer = Answer(reply.status, reply.reason, reply.headers, reply.body + b"[" * 100)
        sent = longer.wire()[: -100 - len(reply.body) // 2]
        if head:
            sent = b'HTTP/1.1 200 OK\r\nX-ClickHouse-Progress: {"read_rows":"1"}\r\n'
        exchange.send(sent)
        exchange.close()
        return False

    return Fault("cut off in the " + ("head" if head else "body"), act)


def hang() -> Fault:
    """Take all and never answer."""

    def act(exchange: Exchange) -> bool:
        exchange.read()
        exchange.wait(UPSTREAM_TIMEOUT_S)
        return False

    return Fault("never answers", act)


def closes_idle(after_s: float = 0.0) -> Fault:
    """Answer well, and close the kept connection ``after_s`` later without a word."""

    def act(exchange: Exchange) -> bool:
        exchange.send(exchange.forward().wire())
        exchange.wait(after_s)
        exchange.close()
        return False

    return Fault("closes the idle connection", act)


def resets_next() -> Fault:
    """Answer well, and reset the kept connection when the next request comes over it."""

    def act(exchange: Exchange) -> bool:
        exchange.send(exchange.forward().wire())
        exchange.wait_for_next()
        exchange.reset()
        return False

    return Fault("resets the kept connection", act)
