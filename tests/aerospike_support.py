"""A server of Aerospike for tests: the real one that the environment names, or a dictionary.

The dictionary knows the few operations that sinks ask for, and runs the same contracts as the
real one does: where the two differ, one of them fails.
"""

from __future__ import annotations

import os
import socket
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import aerospike
import pytest
from aerospike import exception
from aerospike_helpers.batch.records import BatchRecords, Read

from footfall.sinks.aerospike_aggregates import AerospikeAggregates
from footfall.sinks.profiles.aerospike import AerospikeProfiles

NO_AEROSPIKE = "AEROSPIKE_HOSTNAME is not set: no Aerospike server to test against"

POLICIES = [("ALL", "NONE"), ("MASTER", "EQ"), ("ALL", "GT")]
"""(AEROSPIKE_COMMIT_LEVEL, AEROSPIKE_GENERATION_POLICY), each value of both."""

OK, NOT_FOUND, GENERATION, TIMEOUT, OTHER_KIND, RECORD_TOO_BIG = 0, 2, 3, 9, 12, 13
NO_NODE, BATCH_FAILED = 1, -16
GENERATION_MAX = 65_535
RECORD_BYTES_MAX = 1_048_576
"""Limit of the server, unless it is configured otherwise."""


@dataclass(frozen=True, slots=True)
class Server:
    """The address that the environment names."""

    host: str
    port: int
    profiles: str
    """The namespace of profiles."""
    aggregates: str


def server() -> Server:
    """Return the real server. Without one, skip the module that asks."""
    if not os.environ.get("AEROSPIKE_HOSTNAME"):
        pytest.skip(NO_AEROSPIKE, allow_module_level=True)
    return Server(
        os.environ["AEROSPIKE_HOSTNAME"],
        int(os.environ.get("AEROSPIKE_PORT") or 3000),
        os.environ.get("AEROSPIKE_PROFILES_NAMESPACE") or "profiles",
        os.environ.get("AEROSPIKE_AGGREGATES_NAMESPACE") or "aggregates",
    )


@dataclass(slots=True)
class Place:
    """A place to run a contract: sinks of new empty sets, which are closed in the end."""

    host: str
    port: int
    namespaces: tuple[str, str]
    """The namespaces of profiles and of aggregates."""
    connect: Callable[[dict[str, Any]], Any]
    new_set: Callable[[str], str]
    """Returns a new set in a namespace."""
    opened: list[Any] = field(default_factory=list)
    numbers: Iterator[int] = field(default_factory=count)
    """Numbers that are never used twice."""
    shared: dict[Any, AerospikeAggregates] = field(default_factory=dict)

    def profiles(self, keep: int, **others: Any) -> AerospikeProfiles:
        """Return a store that keeps so many tags of each kind; ``others`` as the store takes
        them."""
        return self._open(AerospikeProfiles, 0, keep=keep, bin_name="tags", **others)

    def aggregates(self, width: int, **others: Any) -> AerospikeAggregates:
        """Return a writer of spans of so many minutes."""
        return self._open(AerospikeAggregates, 1, buckets_per_key=width, **others)

    def shared_aggregates(self, width: int, **policies: str) -> AerospikeAggregates:
        """Return the same writer for the same arguments."""
        key = (width, *policies.items())
        if key not in self.shared:
            self.shared[key] = self.aggregates(width, **policies)
        return self.shared[key]

    def _open(self, kind: Any, which: int, **others: Any) -> Any:
        others.setdefault("namespace", self.namespaces[which])
        if "set_name" not in others:
            others["set_name"] = self.new_set(others["namespace"])
        defaults = {"connect": self.connect, "give_up_after_s": 10.0}
        self.opened.append(kind(self.host, self.port, **(defaults | others)))
        return self.opened[-1]

    def put(self, namespace: str, set_name: str, key: str, bins: dict[str, Any]) -> None:
        """Write a record as another program might."""
        client = self.connect({"hosts": [(self.host, self.port)]})
        client.put((namespace, set_name, key), bins)
        client.close()


@contextmanager
def real_place() -> Iterator[Place]:
    """Yield the real server; the sets that were used are emptied in the end."""
    at, used = server(), []

    def new_set(namespace: str) -> str:
        # A namespace takes some thousands of sets.
        used.append((namespace, f"test_{uuid.uuid4().hex[:12]}"))
        return used[-1][1]

    place = Place(at.host, at.port, (at.profiles, at.aggregates), aerospike.client, new_set)
    yield place
    for one in place.opened:
        one.close()
    client = aerospike.client({"hosts": [(at.host, at.port)]})
    for namespace, name in used:
        client.truncate(namespace, name, 0)
    client.close()


@contextmanager
def model_place(model: ModelServer) -> Iterator[Place]:
    """Yield a place on the dictionary."""
    sets = count()
    namespaces = ("profiles", "aggregates")
    place = Place("model", 3000, namespaces, model.connect, lambda _: f"test_{next(sets)}")
    yield place
    for one in place.opened:
        one.close()


Bins = dict[str, Any]


@dataclass
class ModelServer:
    """A client whose server is a dictionary. What it is asked and does not know is an error."""

    results: list[int] = field(default_factory=list)
    """Results of the next records to be written; all are written when it is empty."""
    records: dict[Any, Bins] = field(default_factory=dict)
    generations: Counter[Any] = field(default_factory=Counter)
    nodes: bool = True
    """True while a node is left; a client notices some seconds after the last has ended."""
    uptime_s: int = 1_000_000
    """Uptime of the node, unless it was killed: then it is counted from there."""
    sizes: list[int] = field(default_factory=list)
    """Records in each call that writes."""
    lock: threading.Lock = field(default_factory=threading.Lock)
    """Lock of a record, which is written whole."""
    policies: list[dict[str, Any]] = field(default_factory=list)
    """The policy of each record that was asked to be written."""
    undo: list[tuple[float, Any, Bins | None]] = field(default_factory=list)
    """The time of each write, its record, and the record before it."""
    started_at_s: float | None = None

    def connect(self, _config: dict[str, Any]) -> ModelServer:
        return self

    def kill(self, lost_s: float) -> None:
        """End and restart the node, without what it has acknowledged in the last seconds."""
        with self.lock:
            self.started_at_s = time.monotonic()
            while self.undo and self.undo[-1][0] > self.started_at_s - lost_s:
                _, key, before = self.undo.pop()
                if before is None:
                    self.records.pop(key, None)
                else:
                    self.records[key] = before

    def batch_write(self, batch: BatchRecords) -> None:
        records = batch.batch_records
        keys = [_key(record.key) for record in records]
        assert len(set(keys)) == len(keys), "a batch holds a record once"
        self.sizes.append(len(keys))
        if not self.nodes:
            # Nothing is raised, and the result of a record is that of success.
            batch.result = NO_NODE
            for record in records:
                record.result = OK
            return
        for key, record in zip(keys, records, strict=True):
            with self.lock:
                self.policies.append(record.policy)
                record.result = self.results.pop(0) if self.results else OK
                if record.result == OK:
                    record.result = self._write(key, record)
        batch.result = BATCH_FAILED if any(record.result for record in records) else OK

    def _write(self, key: Any, record: Any) -> int:
        asked = (record.policy or {}).get("gen")
        expected = (record.meta or {}).get("gen")
        now = self.generations[key] if key in self.records else 0
        if asked == aerospike.POLICY_GEN_EQ and expected != now:
            return GENERATION
        # The client sends 16 bits of what is expected.
        if asked == aerospike.POLICY_GEN_GT and expected % (GENERATION_MAX + 1) <= now:
            return GENERATION
        bins: Bins = dict(self.records.get(key, {}))
        for name in {operation["bin"] for operation in record.ops}:
            bins[name] = _copied(bins.get(name, {}))
            if not isinstance(bins[name], dict):
                return OTHER_KIND
        for operation in record.ops:
            _apply(operation, bins)
        if _size(bins) > RECORD_BYTES_MAX:
            return RECORD_TOO_BIG
        self.undo.append((time.monotonic(), key, self.records.get(key)))
        # Whole and at once: who reads meanwhile has the one or the other.
        self.records[key] = bins
        self.generations[key] = now % GENERATION_MAX + 1
        return OK

    def batch_read(self, keys: Sequence[Any], bins: list[str] | None = None) -> BatchRecords:
        found = BatchRecords([Read(key, ops=None) for key in keys if self.nodes])
        found.result = OK if self.nodes else NO_NODE
        for record in found.batch_records:
            key = _key(record.key)
            record.result = OK if key in self.records else NOT_FOUND
            if record.result == OK:
                read = self.records[key] if bins is None else {}
                record.record = (record.key, {"gen": self.generations[key]}, read)
        return found

    def operate(self, key: Any, operations: list[dict[str, Any]]) -> tuple[Any, Any, Bins]:
        if not self.nodes:
            raise _error(exception.InvalidNodeError(), -8, "Node not found for partition")
        bins = self.records.get(_key(key))
        if bins is None:
            raise exception.RecordNotFound()
        read = {}
        for operation in operations:
            assert operation["op"] == aerospike.OP_MAP_GET_BY_KEY_RANGE
            assert operation["return_type"] == aerospike.MAP_RETURN_KEY_VALUE
            if operation["bin"] in bins:
                read[operation["bin"]] = [
                    side
                    for pair in sorted(bins[operation["bin"]].items())
                    if operation["key"] <= pair[0] < operation["range"]
                    for side in pair
                ]
        return key, {}, read

    def info_all(self, command: str) -> dict[str, tuple[None, str]]:
        assert command == "statistics"
        if not self.nodes:
            return {}
        up_s = self.uptime_s
        if self.started_at_s is not None:
            up_s = int(time.monotonic() - self.started_at_s)
        return {"node": (None, f"cluster_size=1;uptime={up_s};objects=1")}

    def put(self, key: Any, bins: Bins) -> None:
        self.records[_key(key)] = dict(bins)
        self.generations[_key(key)] += 1

    def close(self) -> None:
        """Keep what was written, as a server does."""


def _key(key: Any) -> Any:
    return tuple(bytes(part) if isinstance(part, bytearray) else part for part in key[:3])


def _apply(operation: dict[str, Any], bins: Bins) -> None:
    assert len(operation["bin"].encode()) <= 15
    kind, of = operation["op"], bins.setdefault(operation["bin"], {})
    for step in operation.get("ctx") or ():
        assert step.id in (aerospike.CDT_CTX_MAP_KEY, aerospike.CDT_CTX_MAP_KEY_CREATE)
        of = of.setdefault(step.value, {})
    if kind == aerospike.OP_MAP_PUT_ITEMS:
        assert operation["map_policy"] == {"map_order": aerospike.MAP_KEY_ORDERED}
        of.update(operation["val"])
    elif kind == aerospike.OP_MAP_PUT:
        assert operation["map_policy"] == {"map_order": aerospike.MAP_KEY_ORDERED}
        of[operation["key"]] = operation["val"]
    elif kind == aerospike.OP_MAP_REMOVE_BY_KEY_LIST:
        assert not operation.get("inverted")
        for key in operation["val"]:
            of.pop(key, None)
    elif kind == aerospike.OP_MAP_REMOVE_BY_INDEX_RANGE:
        assert operation["inverted"] is True
        start = operation["index"]
        keys = sorted(of)
        first = max(0, len(keys) + start) if start < 0 else start
        kept = keys[first : first + operation["val"] + min(0, len(keys) + start)]
        for gone in set(keys) - set(kept):
            del of[gone]
    else:
        raise AssertionError(f"operation {kind} is not one that sinks ask for")


def _copied(value: Any) -> Any:
    return {key: _copied(one) for key, one in value.items()} if isinstance(value, dict) else value


def _size(value: Any) -> int:
    if isinstance(value, dict):
        return sum(_size(key) + _size(one) for key, one in value.items())
    if isinstance(value, (list, tuple)):
        return sum(map(_size, value))
    return len(value) if isinstance(value, (bytes, str)) else 8


class Interposed:
    """A client, of the dictionary or the real server, that something happens to in between."""

    def __init__(
        self, client: Any, before_write: Callable[[], None], after_write: Callable[[], None]
    ) -> None:
        self._client = client
        self._before_write = before_write
        self._after_write = after_write

    def batch_write(self, batch: BatchRecords) -> None:
        """Write, between the calls before and after."""
        self._before_write()
        self._client.batch_write(batch)
        self._after_write()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)


def no_answer() -> None:
    """Raise what a client raises when it has waited for too long."""
    raise _error(exception.TimeoutError(), TIMEOUT, "Timeout: no answer")


def _error(error: Any, code: int, message: str) -> Any:
    error.code, error.msg = code, message
    return error


_REQUEST = b"\x02\x03"
"""The beginning of a message about records; others ask a node how it is."""


class Gate:
    """A way to a server, on a port of loopback, that can be stalled, cut, and opened again."""

    def __init__(self, host: str, port: int) -> None:
        self._to = (host, port)
        self._open = threading.Event()
        self._closed = False
        self._sockets: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._allow = True
        self._open.set()
        self.held_bytes = 0
        """Bytes of requests to read or write records, while nothing comes through."""
        threading.Thread(target=self._accept, daemon=True).start()

    def stall(self) -> None:
        """Let nothing come through from now on, without telling anybody."""
        self._open.clear()

    def cut(self) -> None:
        """Break off all connections, and close new ones at once."""
        self._allow = False
        sockets, self._sockets = self._sockets, []
        for one in sockets:
            # Close alone does not wake a thread that waits for bytes.
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def open(self) -> None:
        """Let everything through again, as at first."""
        self._allow = True
        self.held_bytes = 0
        self._open.set()

    def close(self) -> None:
        """End all."""
        self._closed = True
        self._listener.close()
        self.cut()
        self._open.set()

    def _accept(self) -> None:
        with suppress(OSError):
            while not self._closed:
                client, _ = self._listener.accept()
                if not self._allow:
                    client.close()
                    continue
                server = socket.create_connection(self._to)
                self._sockets += [client, server]
                for ends in ((client, server), (server, client)):
                    threading.Thread(target=self._carry, args=ends, daemon=True).start()

    def _carry(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError), source, target:
            while data := source.recv(65_536):
                if not self._open.is_set() and data.startswith(_REQUEST):
                    self.held_bytes += len(data)
                self._open.wait(60)
                target.sendall(data)
