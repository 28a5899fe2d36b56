"""A worker process for tests: minute_buckets from a folder of topics to files of rows.

    python -m tests.worker_child HOME [--data FOLDER] [--once] [--share I/N] [--look S] [--slow S]

Topics and rows lie in FOLDER (HOME by default), the state in HOME. ``--look``: seconds between
two looks for new partitions. ``--slow``: seconds that each write of rows takes, which FOLDER/held
tells from its begin on. ``--stop-within``: seconds from a signal to the end at most.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import polars as pl

from footfall.flows import minute_buckets
from footfall.flows._writers import counted
from footfall.sinks.buffered import BufferedSink, Wrote, tell_nobody
from footfall.streams.engine import Outputs
from footfall.streams.process import STOP_WITHIN_S
from footfall.streams.runner import Monitoring, Run, WorkerError, run_worker
from footfall.streams.source import LATEST, Share
from footfall.streams.topic_files import FileTopic


class RowsFile:
    """Appends rows, or letters, as JSON lines; each write is one append."""

    def __init__(self, path: Path, write_s: float) -> None:
        self._file = os.open(path, os.O_CREAT | os.O_APPEND | os.O_WRONLY)
        self._held = path.parent / "held"
        self._write_s = write_s

    def write(self, items: Sequence[Any]) -> None:
        """Append all of them."""
        if self._write_s:
            self._held.touch()
            time.sleep(self._write_s)
        # A kill may have left a part of a line, of which this is no more.
        lines = b"\n"
        for item in items:
            if isinstance(item, pl.DataFrame):
                lines += item.write_ndjson().encode()
            else:
                lines += b"".join(msgspec.json.encode(letter) + b"\n" for letter in item)
        os.write(self._file, lines)

    def close(self) -> None:
        """Do nothing: the process ends soon."""


def main(args: argparse.Namespace) -> None:
    """Run the worker."""
    folder = args.data or args.home

    def sink(name: str, wrote: Wrote = tell_nobody) -> BufferedSink[Any]:
        write_s = args.slow if name == "rows" else 0.0
        return BufferedSink(lambda: RowsFile(folder / name, write_s), rows_max=2_000, wrote=wrote)

    def wire(run: Run) -> Any:
        end = LATEST if run.once else None
        topic = FileTopic(folder / "topics", "user_tags", end=end, poll_bytes_max=100_000)
        outputs = Outputs(sink("rows", counted(run.progress, "rows")), sink("dead"), sink("late"))
        return minute_buckets.FLOW.dataflow(run.source(topic), outputs, run.progress)

    try:
        run_worker(
            "minute_buckets",
            wire,
            args.home,
            once=args.once,
            snapshot_every_s=0.1,
            share=args.share,
            look_every_s=args.look,
            stop_within_s=args.stop_within,
            monitoring=Monitoring(port=args.metrics_port),
        )
    except (WorkerError, OSError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    options = argparse.ArgumentParser()
    options.add_argument("home", type=Path)
    options.add_argument("--data", type=Path)
    options.add_argument("--metrics-port", type=int, default=0)
    options.add_argument("--once", action="store_true")
    options.add_argument("--share", type=lambda text: Share(*map(int, text.split("/"))))
    options.add_argument("--look", type=float, default=0.2)
    options.add_argument("--slow", type=float, default=0.0)
    options.add_argument("--stop-within", type=float, default=STOP_WITHIN_S)
    options.set_defaults(share=Share())
    main(options.parse_args())
