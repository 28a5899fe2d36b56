"""One measured process over a topic of Kafka, or over topic files: a worker, or a plain reader.

python -m benchmarks.kafka_job '{"what": "tables", ...}'

Prints what it counted as JSON.
"""

from __future__ import annotations

import importlib
import json
import os
import sys

import msgspec

FRAME, TABLES = "frame", "tables"
"""What a worker does with its rows: adds them up and drops them, or writes them."""
FAUST = "faust"
"""A worker on the other engine that some flow has on Kafka."""
PLAIN, BYTEWAX = "plain", "bytewax"
"""What only reads: the client itself, or Bytewax's own source."""


class Job(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one process is to do."""

    what: str
    """FRAME, TABLES, FAUST, PLAIN or BYTEWAX."""
    topic: str
    environ: dict[str, str]
    """For read_settings: where topics and tables are, and the home."""
    flow: str = ""
    """Of a worker."""
    index: int = 0
    count: int = 1
    """This process reads share ``index`` of ``count``."""
    follow: bool = False
    """A worker goes on until it is stopped."""

    def encode(self) -> str:
        """As the argument of the process."""
        return msgspec.json.encode(self).decode()


def main(text: str) -> None:
    """Do a job and print its answer."""
    # As `footfall run` does: it is read when polars is imported.
    os.environ.setdefault("POLARS_MAX_THREADS", "1")
    job = msgspec.json.decode(text, type=Job)
    name = "kafka_worker" if job.flow else "kafka_readers"
    print(json.dumps(importlib.import_module(f"benchmarks.{name}").run(job)))


if __name__ == "__main__":
    main(sys.argv[1])
