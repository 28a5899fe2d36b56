"""One measured process over a topic of Kafka, or over topic files: a worker, or a plain reader.

python -m footfall.benchmarks.kafka_job '{"what": "tables", ...}'

Prints what it counted as JSON.
"""

from __future__ import annotations

import importlib
import json
import os
import sys

import msgspec

FRAME, TABLES = "frame", "tables"
"""The two uses of a worker's rows: to add them up and drop them, or to write them."""
FAUST = "faust"
"""A worker on Faust, which some flow has on Kafka."""
PLAIN, BYTEWAX = "plain", "bytewax"
"""The readers: the client itself, or Bytewax's own source."""


class Job(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The work of one process."""

    what: str
    """FRAME, TABLES, FAUST, PLAIN or BYTEWAX."""
    topic: str
    environ: dict[str, str]
    """Variables for read_settings: addresses of topics and tables, and the home."""
    flow: str = ""
    """The flow of a worker, "" for a reader."""
    index: int = 0
    count: int = 1
    """This process reads share ``index`` of ``count``."""
    follow: bool = False
    """True where the worker goes on until it is stopped."""

    def encode(self) -> str:
        """Return the job as the argument of a process."""
        return msgspec.json.encode(self).decode()


def main(text: str) -> None:
    """Do a job and print its answer."""
    # As `footfall run` does: Polars reads it when it is imported.
    os.environ.setdefault("POLARS_MAX_THREADS", "1")
    job = msgspec.json.decode(text, type=Job)
    name = "kafka_worker" if job.flow else "kafka_readers"
    print(json.dumps(importlib.import_module(f"footfall.benchmarks.{name}").run(job)))


if __name__ == "__main__":
    main(sys.argv[1])
