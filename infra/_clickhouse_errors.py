"""Errors as ClickHouse words them: ``Code: 60. DB::Exception: ... (UNKNOWN_TABLE)``."""

from __future__ import annotations

import re
from enum import IntEnum

_CODE = re.compile(r"Code: (\d+)\.")
_OF_FILE = re.compile(
    r": \(in file/uri [^)]*\)|: While executing File: data for INSERT was parsed from file"
)
"""Text about the file that a request's body was kept in, which its sender knows nothing of."""
_NESTED = re.compile(
    r"Code: (\d+)\. DB::Exception: (Code: \1\. DB::Exception: .*)\. "
    r"\([A-Z_]+\)(?: \(version .*\))?",
    re.DOTALL,
)


class Code(IntEnum):
    """ClickHouse's numbers of the errors that are raised or recognised here."""

    BAD_ARGUMENTS = 36
    NOT_IMPLEMENTED = 48
    SYNTAX_ERROR = 62
    UNKNOWN_SETTING = 115
    READONLY = 164
    TOO_MANY_SIMULTANEOUS_QUERIES = 202
    NOT_ENOUGH_SPACE = 243
    SETTING_CONSTRAINT_VIOLATION = 452
    ACCESS_DENIED = 497
    AUTHENTICATION_FAILED = 516
    UNKNOWN_EXCEPTION = 1002


class EngineError(Exception):
    """An error of the engine, or of the server in the engine's words."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text


class EmbeddedClickHouseError(Exception):
    """The reason why the server cannot start, and what to do, on one line."""


def failure(code: Code, reason: str) -> EngineError:
    """Return an error of the server itself, written as ClickHouse writes its errors."""
    return EngineError(code, f"Code: {code}. DB::Exception: {reason}. ({code.name})")


def engine_error(error: Exception) -> EngineError:
    """Return what the engine raised, without the text that wraps and repeats it."""
    text = str(error).strip()
    start = text.find("Code: ")
    text = text[max(start, 0) :]
    while nested := _NESTED.fullmatch(text):
        text = nested.group(2)
    text = _OF_FILE.sub("", text)
    code = _CODE.match(text)
    if code is None:
        return failure(Code.UNKNOWN_EXCEPTION, text or type(error).__name__)
    return EngineError(int(code.group(1)), text)
