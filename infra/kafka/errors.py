"""Errors of this package."""

from __future__ import annotations


class KafkaServerError(Exception):
    """The broker cannot run; the message is one line with the reason and what to do.

    MissingToolError    Java or Maven is not installed, or Java is too old
    """


class MissingToolError(KafkaServerError):
    """Java or Maven is not installed, or Java is too old."""
