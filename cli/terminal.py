"""Terminal output beside text: colours, and codes that move the cursor."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import IO

_PLAIN = frozenset({"dumb", "unknown"})
CLEARED = "\r\x1b[K"
"""Goes to the beginning of the line and empties it."""


def moves_cursor(out: IO[str], environ: Mapping[str, str] = os.environ) -> bool:
    """Tell whether a line can be rewritten: on a terminal that is not TERM=dumb."""
    return out.isatty() and environ.get("TERM", "").lower() not in _PLAIN


def has_colour(out: IO[str], environ: Mapping[str, str] = os.environ) -> bool:
    """Tell whether to use colours: where the cursor moves, and NO_COLOR is not set."""
    return moves_cursor(out, environ) and not environ.get("NO_COLOR")
