"""Sinks on a real Aerospike server, where AEROSPIKE_HOSTNAME names one."""

# ruff: noqa: E402  (the contracts' asserts are rewritten only if that is asked for first)

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import aerospike
import pytest

pytest.register_assert_rewrite("profile_store_contract", "aerospike_contract")

from footfall.sinks import SinkRefusedError, SinkUnavailableError
from tests.aerospike_contract import (
    GROUP,
    AerospikeProfilesContract,
    AggregatesContract,
    GenerationsContract,
    OneWidthContract,
    at,
    row,
    rows_frame,
)
from tests.aerospike_support import Gate, Place, real_place, server
from tests.profile_store_contract import FOREVER, KEEP, frame, names, tag

server()


@pytest.fixture
def place() -> Iterator[Place]:
    with real_place() as place:
        yield place


@pytest.fixture
def gate() -> Iterator[Gate]:
    at = server()
    gate = Gate(at.host, at.port)
    yield gate
    gate.close()


class TestProfiles(AerospikeProfilesContract):
    pass


class TestGenerations(GenerationsContract):
    pass


class TestAggregates(AggregatesContract):
    pass


class TestAggregatesOfOneWidth(OneWidthContract):
    pass


def test_a_server_has_at_most_two_namespaces_and_they_are_these() -> None:
    at = server()
    client = aerospike.client({"hosts": [(at.host, at.port)]})
    found = client.info_random_node("namespaces").split("\t")[-1].strip().split(";")
    client.close()
    assert {at.profiles, at.aggregates} <= set(found)
    assert len(found) <= 2


def test_a_namespace_that_is_not_there_is_named(place: Place) -> None:
    store = place.profiles(KEEP, namespace="nowhere", set_name="s")
    aggregates = place.aggregates(60, namespace="nowhere", set_name="s")
    for ask in (
        lambda: store.put(frame([tag(1)])),
        lambda: store.get("c1", 0, FOREVER, 1),
        lambda: aggregates.write([rows_frame([row()])]),
        lambda: aggregates.get(GROUP, at(0), at(1)),
    ):
        with pytest.raises(SinkRefusedError, match=r"namespace nowhere: .*code 20"):
            ask()


@pytest.mark.parametrize("policy", ["NONE", "EQ", "GT"])
def test_a_generation_that_wraps_around_stops_no_policy(place: Place, policy: str) -> None:
    name = place.new_set(place.namespaces[0])
    store = place.profiles(KEEP, set_name=name, generation_policy=policy, give_up_after_s=1.0)
    key = (place.namespaces[0], name, "c1")
    with closing(aerospike.client({"hosts": [(place.host, place.port)]})) as client:
        for _ in range(65_533):
            client.put(key, {"other": 1})
        for number in range(4):
            store.put(frame([tag(number)]))
        assert client.exists(key)[1]["gen"] == 2
    assert store.get("c1", 0, FOREVER, 9) == (names(3, 2, 1, 0), [])


class Behind:
    """Sinks that reach the server through a gate, and readers that go straight to it."""

    def __init__(self, place: Place, gate: Gate, policy: str) -> None:
        address = {"hosts": [("127.0.0.1", gate.port)]}
        others: dict[str, Any] = {
            "connect": lambda config: aerospike.client(config | address),
            "generation_policy": policy,
            "timeout_ms": 300,
        }
        sets = [place.new_set(namespace) for namespace in place.namespaces]
        self.reader = place.profiles(KEEP, set_name=sets[0])
        self.sums = place.aggregates(60, set_name=sets[1])
        self.patient = place.profiles(KEEP, set_name=sets[0], give_up_after_s=30.0, **others)
        self.store = place.profiles(KEEP, set_name=sets[0], give_up_after_s=0.6, **others)
        self.aggregates = place.aggregates(60, set_name=sets[1], give_up_after_s=0.6, **others)
        self.patient.put(frame([tag(0)]))
        self.store.put(frame([tag(0)]))
        self.aggregates.write([rows_frame([row(0)])])


@pytest.mark.parametrize("policy", ["NONE", "EQ", "GT"])
@pytest.mark.parametrize("fault", ["stall", "cut"])
def test_a_server_out_of_reach_is_waited_for_then_given_up_and_resumed(
    place: Place, gate: Gate, fault: str, policy: str
) -> None:
    behind = Behind(place, gate, policy)
    getattr(gate, fault)()
    with pytest.raises(SinkUnavailableError, match=r"profiles in .*tried \d+ times") as caught:
        behind.store.put(frame([tag(1), tag(2, cookie="c2")]))
    assert "\n" not in str(caught.value)
    with pytest.raises(SinkUnavailableError, match=r"aggregates in .*tried \d+ times"):
        behind.aggregates.write([rows_frame([row(0, count=5, version=5), row(60)])])
    with pytest.raises(SinkUnavailableError, match="profiles in Aerospike"):
        behind.store.get("c1", 0, FOREVER, 9)
    # Another waits, and writes as soon as it can.
    waiting = threading.Thread(target=behind.patient.put, args=(frame([tag(3), tag(1)]),))
    waiting.start()
    gate.open()
    waiting.join(40)
    assert not waiting.is_alive()
    # And what gave up is asked again from where it was.
    behind.patient.put(frame([tag(1), tag(2, cookie="c2")]))
    assert behind.reader.get("c1", 0, FOREVER, 9) == (names(3, 1, 0), [])
    assert behind.reader.get("c2", 0, FOREVER, 9) == (names(2), [])
    patient = place.aggregates(60, set_name=behind.aggregates._set)
    patient.write([rows_frame([row(0, count=5, version=5), row(60)])])
    found = behind.sums.get(GROUP, at(0), at(61))
    assert [bucket.count for bucket in found] == [5, 1]


def test_nothing_counts_as_written_where_the_client_has_no_node_left(
    place: Place, gate: Gate
) -> None:
    behind = Behind(place, gate, "NONE")
    with_generations = Behind(place, gate, "EQ")
    gate.cut()
    # After some seconds a client forgets the node, and then says of each record that it is done.
    clients = [
        sink._server._client
        for each in (behind, with_generations)
        for sink in (each.store, each.aggregates)
    ]
    until_s = time.monotonic() + 30
    while any(client.is_connected() for client in clients):
        assert time.monotonic() < until_s
        time.sleep(0.05)
    for each in (behind, with_generations):
        with pytest.raises(SinkUnavailableError, match="profiles in"):
            each.store.put(frame([tag(1)]))
        with pytest.raises(SinkUnavailableError, match="profiles in"):
            each.store.get("c1", 0, FOREVER, 9)
        with pytest.raises(SinkUnavailableError, match="aggregates in"):
            each.aggregates.write([rows_frame([row(0, count=2, version=2)])])
        with pytest.raises(SinkUnavailableError, match="aggregates in"):
            each.aggregates.get(GROUP, at(0), at(1))
    gate.open()
    for each in (behind, with_generations):
        each.patient.put(frame([tag(2)]))
        assert each.reader.get("c1", 0, FOREVER, 9) == (names(2, 0), [])
