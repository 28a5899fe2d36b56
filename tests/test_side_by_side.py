"""The suite in several processes: who runs what, in which order, and what runs alone."""

from __future__ import annotations

import fcntl
import threading
from pathlib import Path

import pytest

from tests.api_process_support import eventually
from tests.ports_support import EACH, FIRST, free_port
from tests.side_by_side_support import (
    BY_TEST,
    CALM_FIRST,
    SLOW_FIRST,
    Turns,
    place_of,
    unit_of,
)

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize("start", [*BY_TEST, *CALM_FIRST, *SLOW_FIRST])
def test_what_is_named_is_there(start: str) -> None:
    path, _, name = start.partition("::")
    assert (ROOT / path).exists()
    assert f"def {name}(" in (ROOT / path).read_text() if name else True


def test_a_file_stays_together_but_those_that_share_nothing() -> None:
    together = [unit_of(f"tests/test_workers.py::test_{n}") for n in range(2)]
    apart = [unit_of(f"{BY_TEST[0]}::test_{n}") for n in range(2)]
    assert len(set(together)) == 1
    assert len(set(apart)) == 2


def test_calm_tests_come_first_then_slow_ones_then_the_rest() -> None:
    calm, slow = f"{CALM_FIRST[0]}::test_a", f"{SLOW_FIRST[0]}::test_b"
    rest = "tests/test_times.py::test_c"
    assert sorted([rest, slow, calm], key=place_of) == [calm, slow, rest]


def test_nobody_runs_beside_one_that_runs_alone_nor_between_two_of_them(tmp_path: Path) -> None:
    alone, other = Turns(tmp_path), Turns(tmp_path)
    came_in = threading.Event()

    def come_in() -> None:
        with other.turn(alone=False, next_alone=False):
            came_in.set()

    thread = threading.Thread(target=come_in)
    with alone.turn(alone=True, next_alone=True):
        thread.start()
        assert not came_in.wait(0.2)
    assert not came_in.wait(0.2)
    with alone.turn(alone=True, next_alone=False):
        assert not came_in.wait(0.2)
    thread.join(10)
    assert came_in.is_set()


def test_one_that_runs_alone_waits_for_all_and_lets_nobody_in_before_it(tmp_path: Path) -> None:
    first, second, alone, late = (Turns(tmp_path) for _ in range(4))
    order: list[str] = []

    def run(turns: Turns, name: str) -> threading.Thread:
        def body() -> None:
            with turns.turn(alone=name == "alone", next_alone=False):
                order.append(name)

        thread = threading.Thread(target=body)
        thread.start()
        return thread

    def is_held(door: Path) -> bool:
        with door.open() as mine:
            try:
                fcntl.flock(mine, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False

    with (
        first.turn(alone=False, next_alone=False),
        second.turn(alone=False, next_alone=False),
    ):
        threads = [run(alone, "alone")]
        eventually(lambda: is_held(tmp_path / "door"))
        threads.append(run(late, "late"))
        threads[1].join(0.2)
        assert order == []
    for thread in threads:
        thread.join(10)
    assert order == ["alone", "late"]


def test_ports_are_of_a_range_for_each_process(monkeypatch: pytest.MonkeyPatch) -> None:
    for number in (0, 3):
        monkeypatch.setenv("PYTEST_XDIST_WORKER", f"gw{number}")
        ports = {free_port() for _ in range(20)}
        assert len(ports) == 20
        assert all(0 <= port - FIRST - number * EACH < EACH for port in ports)
