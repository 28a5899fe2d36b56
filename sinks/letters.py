"""Letters and notices as records of their topics."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from msgspec import Struct

from footfall.schemas.dead_letters import record_of
from footfall.schemas.topics import TOPICS
from footfall.sinks import TopicWriter


class LetterWriter:
    """A writer of letters to one topic, keyed as the topic says."""

    def __init__(self, topics: TopicWriter, topic: str) -> None:
        self._topics = topics
        self._topic = topic
        self._key = TOPICS[topic].key

    def write(self, letters: Sequence[Struct | Sequence[Struct]]) -> None:
        """Write letters, or lists of them; return when all are acknowledged.

        Raises SinkError.
        """
        records = [record_of(letter, self._key) for letter in _flat(letters)]
        if records:
            self._topics.write(self._topic, records)

    def close(self) -> None:
        """Release the topics. Never raises."""
        self._topics.close()


def _flat(letters: Iterable[Struct | Sequence[Struct]]) -> Iterable[Struct]:
    for letter in letters:
        if isinstance(letter, Struct):
            yield letter
        else:
            yield from letter
