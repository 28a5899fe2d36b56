"""One measured run in a process of its own, which prints its answer as JSON."""

from __future__ import annotations

import importlib
import json
import os
import sys
from pathlib import Path


def main(variant: str, flow: str, folder: Path, home: Path) -> None:
    """Run a variant of a flow over the topic in ``folder``; ``home`` is empty."""
    # As `footfall run` does: Polars reads it when it is imported.
    os.environ.setdefault("POLARS_MAX_THREADS", "1")
    answer = importlib.import_module(f"footfall.benchmarks.{variant}").run(flow, folder, home)
    print(json.dumps(answer))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4]))
