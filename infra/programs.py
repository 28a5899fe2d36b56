"""The installed Prometheus and Alertmanager, and their command lines.

Configuration and data of each are in a folder of its own.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

RETENTION = ("--storage.tsdb.retention.time=15d", "--storage.tsdb.retention.size=512MB")
"""Limits of Prometheus's data; infra/prometheus/prometheus.yml mentions them, too."""


@dataclass(frozen=True, slots=True)
class Programs:
    """The paths of both programs."""

    prometheus: str
    alertmanager: str


def programs() -> Programs | None:
    """Return the installed programs, None where one of them is missing."""
    prometheus = shutil.which("prometheus")
    # Debian has another name for it.
    alertmanager = shutil.which("prometheus-alertmanager") or shutil.which("alertmanager")
    return Programs(prometheus, alertmanager) if prometheus and alertmanager else None


def prometheus_command(program: str, folder: Path, address: str) -> tuple[str, ...]:
    """Return the command line of a Prometheus that listens on host:port."""
    return (
        program,
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        *RETENTION,
        f"--web.listen-address={address}",
        "--log.level=warn",
    )


def alertmanager_command(program: str, folder: Path, address: str) -> tuple[str, ...]:
    """Return the command line of an Alertmanager that listens on host:port."""
    return (
        program,
        f"--config.file={folder / 'alertmanager.yml'}",
        f"--storage.path={folder / 'data'}",
        f"--web.listen-address={address}",
        # No cluster: otherwise it listens on all addresses for other Alertmanagers.
        "--cluster.listen-address=",
        "--log.level=warn",
    )
