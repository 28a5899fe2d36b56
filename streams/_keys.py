"""The keys and headers of records in a segment of an embedded partition."""

from __future__ import annotations

from footfall.schemas.records import BLOCK_HEAD, Headers, KeysBlock, unpack_keys
from footfall.schemas.topic_files import NO_KEYS, Append, DamagedError, Segment


class KeysReader:
    """Reader of keys and headers. It keeps the block of one append, as its records follow."""

    def __init__(self, segment: Segment) -> None:
        self._path = segment.keys
        self._at = NO_KEYS
        self._block = KeysBlock()

    def of(self, append: Append, offset: int) -> tuple[bytes | None, Headers]:
        """Return the key and headers of a record of an append. Raises DamagedError."""
        if append.keys == NO_KEYS:
            return None, ()
        if append.keys != self._at:
            self._block, self._at = self._read(append), append.keys
        number = offset - append.first
        key = self._block.keys[number] if self._block.keys else None
        return key, self._block.headers[number] if self._block.headers else ()

    def _read(self, append: Append) -> KeysBlock:
        try:
            with self._path.open("rb") as file:
                file.seek(append.keys)
                head = file.read(BLOCK_HEAD.size)
                size = BLOCK_HEAD.unpack(head)[0] if len(head) == BLOCK_HEAD.size else 0
                block = unpack_keys(head, file.read(size))
        except FileNotFoundError:
            block = None
        if block is None:
            raise DamagedError(
                f"{self._path} is damaged at byte {append.keys}: the keys and headers of "
                f"{append.records} records from offset {append.first} on are lost"
            )
        return block
