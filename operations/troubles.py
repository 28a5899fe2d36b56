"""Troubles of flows as sentences, for the live page and the demo's terminal view.

A flow's facts are those of ``operations.flow_facts``. Whether a flow that is behind moves is seen
by several looks, so ``Movement`` remembers. Flows with the same trouble share a sentence.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from footfall.operations.flow_facts import FlowFacts, PlaceFacts

STILL_S = 4.0
"""Seconds for which a partition with waiting records is not read before it counts as a trouble."""
AGAIN_S = 10.0
"""Seconds for which a worker's end is told: its successor may be there within seconds."""
STARTS_WITHIN_S = 20.0
"""A worker that began less than this ago may still be loading its state."""
NAMES_SHOWN = 3


class Movement:
    """Remembers how long each partition has been at its offset, and which processes worked."""

    def __init__(self) -> None:
        self._since_ms: dict[tuple[str, str, int], tuple[int, int]] = {}
        self._ran: dict[tuple[str, int], int] = {}
        """The process that ran last, by flow and worker."""
        self._again_ms: dict[str, int] = {}

    def observe(self, flows: Iterable[FlowFacts], now_ms: int) -> None:
        """Take in the facts of one look."""
        seen = {}
        for flow in flows:
            for place in flow.places:
                key = flow.name, place.topic, place.partition
                offset, since_ms = self._since_ms.get(key, (None, now_ms))
                is_moved = offset != place.next_offset or not place.lag
                seen[key] = place.next_offset, now_ms if is_moved else since_ms
            for worker in flow.workers:
                if worker.is_running:
                    ran = self._ran.setdefault((flow.name, worker.worker), worker.pid)
                    if ran != worker.pid:
                        self._again_ms[flow.name] = now_ms
                    self._ran[flow.name, worker.worker] = worker.pid
        self._since_ms = seen

    def is_again(self, flow: FlowFacts, now_ms: int) -> bool:
        """Tell whether a worker of the flow has just replaced one that had ended."""
        return now_ms - self._again_ms.get(flow.name, -1_000_000) < AGAIN_S * 1000

    def still_s(self, flow: FlowFacts, now_ms: int) -> float:
        """Return the seconds that records have waited in a partition that is not read; 0 if none
        has waited too long."""
        newest_ms = max((worker.started_ms for worker in flow.workers), default=0)
        if now_ms - newest_ms < STARTS_WITHIN_S * 1000:
            return 0.0
        return max((self._still_s(flow, place, now_ms) for place in flow.places), default=0.0)

    def _still_s(self, flow: FlowFacts, place: PlaceFacts, now_ms: int) -> float:
        # Offsets that are no record (the end of a transaction) have no age.
        if not place.lag or (place.age_s or 0) < STILL_S:
            return 0.0
        _, since_ms = self._since_ms.get((flow.name, place.topic, place.partition), (0, now_ms))
        still_s = (now_ms - since_ms) / 1000
        return still_s if still_s >= STILL_S else 0.0


def trouble_of(flow: FlowFacts, movement: Movement, now_ms: int) -> str:
    """Return a flow's trouble as a predicate, "has no worker"; "" where all is well."""
    by_state = {
        "stopped": "has no worker",
        "degraded": f"has {flow.running} of {flow.wanted} workers",
    }
    told = [
        by_state.get(flow.state, ""),
        "failed" if flow.error else "",
        "lost records that were removed before they were read" if flow.lost else "",
        f"is {flow.trouble}" if flow.trouble else "",
        "was without a worker for a moment" if movement.is_again(flow, now_ms) else "",
        "is behind and does not move" if movement.still_s(flow, now_ms) else "",
    ]
    return next(filter(None, told), "")


def sentences(flows: Sequence[FlowFacts], movement: Movement, now_ms: int) -> list[str]:
    """Return one sentence per kind of trouble, the one with the most flows first."""
    by_kind: dict[str, list[FlowFacts]] = {}
    for flow in flows:
        kind = trouble_of(flow, movement, now_ms)
        if kind:
            by_kind.setdefault(kind, []).append(flow)
    kinds = sorted(by_kind.items(), key=lambda item: -len(item[1]))
    return [_sentence(kind, of_kind) for kind, of_kind in kinds]


def _sentence(kind: str, flows: Sequence[FlowFacts]) -> str:
    names = ", ".join(flow.name for flow in flows[:NAMES_SHOWN])
    more = len(flows) - NAMES_SHOWN
    if more > 0:
        names += f" and {more} more"
    told = f"{names} {kind if len(flows) == 1 else _of_several(kind)}"
    waiting = records_waiting(flows)
    if waiting:
        told += f": {waiting:,} record{'' if waiting == 1 else 's'} wait{'s' * (waiting == 1)}"
        ages = [flow.age_s for flow in flows if flow.age_s]
        if ages:
            told += f", the oldest for {max(ages):,.0f} s"
    errors = [flow.error for flow in flows if flow.error]
    return f"{told}. {errors[0]}" if errors else told


def _of_several(kind: str) -> str:
    words = {"has": "have", "is": "are", "does": "do", "was": "were"}
    return " ".join(words.get(word, word) for word in kind.split(" "))


def records_waiting(flows: Iterable[FlowFacts]) -> int:
    """Return the number of records that some of these flows have not read, each counted once."""
    most: dict[tuple[str, int], int] = {}
    for flow in flows:
        for place in flow.places:
            key = place.topic, place.partition
            most[key] = max(most.get(key, 0), place.lag)
    return sum(most.values())
