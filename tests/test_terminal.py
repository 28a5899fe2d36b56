"""The view of a demo on a terminal of any size, and what may be written there beside text."""

from __future__ import annotations

import io
from dataclasses import replace

import msgspec
import pytest

from footfall.api.snapshot import Flow, Worker
from footfall.cli.live import FlowLine, Picture, plain_line, terminal_view
from footfall.cli.terminal import has_colour, moves_cursor
from tests.cli_support import ROOT

FLOW = Flow(
    flow="minute_buckets",
    state="running",
    trouble="",
    error="",
    workers=[Worker(0, 42, "running", 0.5, 0.25, 120_000_000)],
    read_per_s=998.7,
    read=1_234_567,
    used=1_234_000,
    filtered=0,
    late=500,
    dead=67,
    lag=12,
    lag_s=3.2,
    rows_written=9_876,
    watermark_ms=1_647_951_300_000,
)
PICTURE = Picture(
    page="http://127.0.0.1:8080/",
    elapsed_s=61.2,
    flows=[
        FlowLine("minute_buckets", "running", FLOW),
        FlowLine("user_profiles", "starting", None),
    ],
    generators={"tags": "5 rows, 5 sent", "csv": ""},
    messages=["user_profiles ended (killed by SIGKILL); starting it again in 0.5 s"],
)


def test_a_plain_line_has_everything() -> None:
    assert plain_line(PICTURE) == (
        "61 s | minute_buckets 1,234,567 at 999/s lag 12 late 500 dead 67"
        " | user_profiles starting | flows 120 MB 25% cpu | tags: 5 rows, 5 sent"
    )


def test_a_plain_line_does_not_tell_of_what_is_not_there() -> None:
    calm = replace(
        PICTURE,
        flows=[FlowLine("f", "ending", msgspec.structs.replace(FLOW, lag=0, late=0, dead=0))],
    )
    assert "| f (ending) 1,234,567 at 999/s | flows" in plain_line(calm)


def test_the_terminal_view_has_everything() -> None:
    text = "\n".join(shown(PICTURE, 130, 40))
    for part in (
        "http://127.0.0.1:8080/", "1,234,567", "999", "12", "500", "67", "9,876", "120", "25%",
        "2022-03-22T12:15:00", "starting", "tags: 5 rows", "killed by SIGKILL",
    ):  # fmt: skip
        assert part in text


def shown(picture: Picture, width: int, height: int) -> list[str]:
    from rich.console import Console

    out = io.StringIO()
    console = Console(file=out, width=width, height=height)
    console.print(terminal_view(picture, width, height))
    return out.getvalue().splitlines()


NAMES = [
    "failed_logins", "login_alerts", "minute_buckets", "online_users", "product_views",
    "request_trace", "service_health", "shop_events_hot", "split_topics", "store_metrics",
    "time_online", "user_profiles", "user_trace",
]  # fmt: skip
LARGE = msgspec.structs.replace(
    FLOW,
    read=1_234_567_890,
    rows_written=9_876_543_210,
    lag=12_345_678,
    lag_s=86_400,
    late=123_456,
)
FULL = replace(
    PICTURE,
    flows=[FlowLine(name, "running", msgspec.structs.replace(LARGE, flow=name)) for name in NAMES],
    generators={"shop-0": "123,456,789 rows, 123,456,789 sent, 1,000/s, event time " * 2},
    messages=[f"message {number} " + "that is long " * 20 for number in range(9)],
)


@pytest.mark.parametrize("width", [40, 60, 80, 100, 130, 200])
def test_a_narrow_terminal_has_fewer_columns_and_whole_numbers(width: int) -> None:
    lines = shown(FULL, width, 40)
    assert max(map(len, lines)) <= width
    (head,) = (line for line in lines if line.startswith("flow "))
    row = next(line for line in lines if line.startswith("time_online"))
    assert "\u2026" not in row
    told = {
        "lag": "12,345,678", "per s": "999", "lag s": "86,400", "read": "1,234,567,890",
        "late": "123,456", "dead": "67", "rows out": "9,876,543,210", "MB": "120", "cpu": "25%",
        "event time": "2022-03-22T12:15:00",
    }  # fmt: skip
    for name, value in told.items():
        is_shown = f"  {name}" in head.replace("lag s", "") if name == "lag" else name in head
        assert (f" {value}" in row) == is_shown, name
    assert "lag" in head
    if width >= 80:
        assert {"per s", "lag s"} <= {name for name in told if name in head}


@pytest.mark.parametrize("height", [8, 14, 24, 50])
def test_the_view_is_as_high_as_the_terminal_and_shows_every_flow_that_is_in_trouble(
    height: int,
) -> None:
    lines = shown(FULL, 80, height)
    assert len(lines) < height
    if height >= 24:
        assert [line.split()[0] for line in lines if line.split()[0] in NAMES] == NAMES
    gone = msgspec.structs.replace(FLOW, trouble="has no worker")
    troubled = replace(
        FULL,
        flows=[*FULL.flows[:-1], FlowLine("user_trace", "running", gone)],
        troubles=["user_trace has no worker: 12 records wait"],
    )
    lines = shown(troubled, 80, height)
    assert len(lines) < height
    assert any(line.startswith("user_trace  ") for line in lines)
    assert "user_trace has no worker: 12 records wait" in lines


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("environ", "moves", "colours"),
    [
        ({"TERM": "xterm-256color"}, True, True),
        ({}, True, True),
        ({"TERM": "xterm", "NO_COLOR": "1"}, True, False),
        ({"TERM": "xterm", "NO_COLOR": ""}, True, True),
        ({"TERM": "dumb"}, False, False),
        ({"TERM": "DUMB", "NO_COLOR": "1"}, False, False),
    ],
)
def test_colours_and_cursor_codes_only_where_they_are_wanted(
    environ: dict[str, str], moves: bool, colours: bool
) -> None:
    assert moves_cursor(Terminal(), environ) == moves
    assert has_colour(Terminal(), environ) == colours
    assert not moves_cursor(io.StringIO(), environ)
    assert not has_colour(io.StringIO(), environ)


def test_no_other_file_writes_colours_or_moves_the_cursor() -> None:
    wrong = [
        str(path)
        for path in (ROOT / "cli").rglob("*.py")
        if path.name != "terminal.py"
        and any(code in path.read_text() for code in ("\\x1b[K", "\\033[K", "\\r\\x1b"))
    ]
    assert wrong == []
