"""The states of a recovery store, taken out and put in by the engine itself.

The engine keeps a state under (flow id, step id, key), whatever kind of step it is, and gives it
to the step of that id at the next start. So a small dataflow with the ids of a flow reads what a
store holds, or writes it into another store, without knowing the store's own format.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import bytewax.operators as op
from bytewax.dataflow import Dataflow
from bytewax.inputs import (
    DynamicSource,
    FixedPartitionedSource,
    StatefulSourcePartition,
    StatelessSourcePartition,
)
from bytewax.operators import StatefulBatchLogic
from bytewax.outputs import DynamicSink, StatelessSinkPartition
from bytewax.recovery import RecoveryConfig, init_db_dir
from bytewax.testing import run_main

STORE_PARTS = 1
"""Number of files of a store; fixed when it is made."""
RESUME_WAIT_S = 60.0
"""Longest wait in seconds for the engine to give back all states."""
_PROBE = "probe"

States = dict[str, dict[str, Any]]
"""States by step id and key."""


def make_store(folder: Path, flow_id: str, states: States) -> None:
    """Make a store of a flow that holds these states; the folder must be empty."""
    init_db_dir(folder, STORE_PARTS)
    if not any(states.values()):
        return
    flow = Dataflow(flow_id)
    for step, given in states.items():
        source = op.input(f"given_{step}", flow, _Items(list(given.items())))
        held = op.stateful_batch(step, source, _Held)
        op.output(f"held_{step}", held, _Taken({}))
    _run(flow, folder)


def read_states(folder: Path, flow_id: str, steps: Iterable[str]) -> States:
    """Return the states of these steps in a flow's store. It is run on: give it a copy."""
    found: States = {step: {} for step in steps}
    flow = Dataflow(flow_id)
    for step, states in found.items():
        resumed = _Resumed()
        probes = op.input(f"probe_{step}", flow, resumed)
        held = op.stateful_batch(step, probes, resumed.held)
        op.output(f"held_{step}", held, _Taken(states))
    _run(flow, folder)
    return found


def _run(flow: Dataflow, folder: Path) -> None:
    config = RecoveryConfig(str(folder), timedelta(0))
    run_main(flow, epoch_interval=timedelta(0), recovery_config=config)


class _Held(StatefulBatchLogic[Any, Any, Any]):
    """A logic that holds the state it resumes with, or the last it is given, and gives it at the
    end."""

    def __init__(self, state: Any) -> None:
        self._state = state

    def on_batch(self, values: list[Any]) -> tuple[Iterable[Any], bool]:
        self._state = values[-1]
        return [], StatefulBatchLogic.RETAIN

    def on_eof(self) -> tuple[Iterable[Any], bool]:
        return [self._state], StatefulBatchLogic.RETAIN

    def snapshot(self) -> Any:
        return self._state


class _Resumed(FixedPartitionedSource[Any, None]):
    """A source that gives a probe and ends when it has come through.

    States are given back before any item. If it ended earlier, the flow would be over before the
    last of them were given back.
    """

    def __init__(self) -> None:
        self._came = False

    def held(self, state: Any) -> _Held:
        """Return the logic of a key; that of the probe is not kept."""
        source = self

        class Probed(_Held):
            def on_batch(self, values: list[Any]) -> tuple[Iterable[Any], bool]:
                source._came = True
                return [], StatefulBatchLogic.DISCARD

        return Probed(state)

    def list_parts(self) -> list[str]:
        return [_PROBE]

    def build_part(self, step_id: str, for_part: str, resume_state: Any) -> _ResumedPart:
        return _ResumedPart(self._probes())

    def _probes(self) -> Iterator[list[Any]]:
        yield [(_PROBE, None)]
        until_s = time.monotonic() + RESUME_WAIT_S
        while not self._came:
            if time.monotonic() > until_s:
                raise TimeoutError("the engine does not give back the states of a recovery store")
            yield []


class _ResumedPart(StatefulSourcePartition[Any, None]):
    def __init__(self, probes: Iterator[list[Any]]) -> None:
        self._probes = probes

    def next_batch(self) -> list[Any]:
        return next(self._probes)

    def snapshot(self) -> None:
        return None


class _Items(DynamicSource[Any]):
    def __init__(self, items: list[Any]) -> None:
        self._items = items

    def build(self, step_id: str, worker_index: int, worker_count: int) -> _ItemsPart:
        return _ItemsPart(self._items)


class _ItemsPart(StatelessSourcePartition[Any]):
    def __init__(self, items: list[Any]) -> None:
        self._left = [items] if items else []

    def next_batch(self) -> list[Any]:
        if not self._left:
            raise StopIteration
        return self._left.pop()


class _Taken(DynamicSink[Any]):
    def __init__(self, found: dict[str, Any]) -> None:
        self._found = found

    def build(self, step_id: str, worker_index: int, worker_count: int) -> _TakenPart:
        return _TakenPart(self._found)


class _TakenPart(StatelessSinkPartition[Any]):
    def __init__(self, found: dict[str, Any]) -> None:
        self._found = found

    def write_batch(self, items: list[Any]) -> None:
        self._found.update(items)
