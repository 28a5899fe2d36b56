"""What may be written to a terminal beside text: colours, and codes that move the cursor."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import IO

_PLAIN = frozenset({"dumb", "unknown"})
CLEARED = "\r\x1b[K"
"""Go to the beginning of the line, which is empty then."""


def moves_cursor(out: IO[str], environ: Mapping[str, str] = os.environ) -> bool:
    """Tell whether a line can be written again: on a terminal that is not TERM=dumb."""
    return out.isatty() and environ.get("TERM", "").lower() not in _PLAIN


def has_colour(out: IO[str], environ: Mapping[str, str] = os.environ) -> bool:
    """Tell whether to colour: where the cursor moves, too, and NO_COLOR is not set."""
    return moves_cursor(out, environ) and not environ.get("NO_COLOR")
