"""A topic in a folder of its own, as every measured process is given it."""

from __future__ import annotations

from pathlib import Path

from footfall.schemas.topic_files import META_FILE


def topic_in(folder: Path) -> str:
    """Return the name of the one topic in a folder."""
    (path,) = folder.glob(f"*/{META_FILE}")
    return path.parent.name
