"""Amounts of money as they are shown."""

from __future__ import annotations


def money(cents: int) -> str:
    """Return cents as an amount: 123456 is 1,234.56."""
    sign = "-" if cents < 0 else ""
    return f"{sign}{abs(cents) // 100:,}.{abs(cents) % 100:02d}"
