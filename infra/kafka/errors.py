"""What this package raises."""

from __future__ import annotations


class KafkaServerError(Exception):
    """The broker cannot be had; one line that says why and what to do.

    MissingToolError    Java or Maven is not installed, or Java is too old
    """


class MissingToolError(KafkaServerError):
    """Java or Maven is not installed, or Java is too old."""
