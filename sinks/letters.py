"""Letters and notices as records of their topics."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from msgspec import Struct, structs

from schemas.dead_letters import DeadLetter, LateEvent, encode
from schemas.topics import RECORD_BYTES_MAX, TOPICS
from sinks import Record, TopicWriter

_HEADROOM_BYTES = 1_024
"""Left in a record for its key and what the broker adds."""


class LetterWriter:
    """Writes letters to one topic, keyed as the topic says."""

    def __init__(self, topics: TopicWriter, topic: str) -> None:
        self._topics = topics
        self._topic = topic
        self._key = TOPICS[topic].key

    def write(self, letters: Sequence[Struct | Sequence[Struct]]) -> None:
        """Write letters, or lists of them; return when all are acknowledged.

        A letter that would be larger than a record may be has more of its payload cut off.
        Raises SinkError.
        """
        records = [self._record(letter) for letter in _flat(letters)]
        if records:
            self._topics.write(self._topic, records)

    def close(self) -> None:
        """Release the topics. Never raises."""
        self._topics.close()

    def _record(self, letter: Struct) -> Record:
        key = str(getattr(letter, self._key)).encode()
        value = encode(letter)
        if isinstance(letter, DeadLetter | LateEvent) and letter.payload is not None:
            text = letter.payload
            while len(value) > RECORD_BYTES_MAX - _HEADROOM_BYTES - len(key) and text:
                # Characters that JSON must escape take up to six bytes each.
                text = text[: len(text) // 2]
                value = encode(structs.replace(letter, payload=text))
        return key, value


def _flat(letters: Iterable[Struct | Sequence[Struct]]) -> Iterable[Struct]:
    for letter in letters:
        if isinstance(letter, Struct):
            yield letter
        else:
            yield from letter
