"""Addresses at which processes are scraped: files for Prometheus's ``file_sd_configs``.

Each process that serves ``/metrics`` writes ``<FOOTFALL_HOME>/metrics/<name>.json`` by an atomic
rename, and removes it when it ends. After a ``kill -9`` the file stays, and Prometheus says that
the target is down. ``instance`` is the name: a restart on another port goes on with its series.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_ANY_HOSTS = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}


def targets_folder(home: Path) -> Path:
    """Return the folder whose ``*.json`` Prometheus reads."""
    return home / "metrics"


@contextmanager
def scrape_target(home: Path, name: str, host: str, port: int) -> Iterator[None]:
    """Tell Prometheus of this process while the context lasts."""
    folder = targets_folder(home)
    folder.mkdir(0o700, parents=True, exist_ok=True)
    reached = _ANY_HOSTS.get(host, host)
    shown = f"[{reached}]" if ":" in reached else reached
    written = json.dumps([{"targets": [f"{shown}:{port}"], "labels": {"instance": name}}]) + "\n"
    path = folder / f"{name}.json"
    # It is not named *.json, so that it is not read before it is whole.
    part = path.with_suffix(f".{os.getpid()}.part")
    part.write_text(written)
    part.replace(path)
    try:
        yield
    finally:
        # Another process of this name may have begun meanwhile.
        if path.exists() and path.read_text() == written:
            path.unlink(missing_ok=True)
