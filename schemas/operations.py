"""What the services of a shop do, as data: which steps a request of each operation must log.

An operation is known by its first step (``BuyReq``); where that one was lost, by another of its
steps (see ``operation_of``). Its steps stand in groups, in order:

required    every step of the group must be there
optional    all of it or nothing: once one step of the group is there, all of them must be
repeats     the group may come several times (another try); each of its steps must be there as
            often as the one of them that came most often

The first step, in the order of the groups, that is not there as often as it must be is the
missing one. Steps of other operations and unknown ones neither help nor harm; and the order in
which the steps came does not matter, so that the answer is the same however they were late.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from schemas.platform_logs import CART, CATALOG, LOGIN, PAYMENT, RESERVATION

OUTCOME_OK, OUTCOME_FAILED, OUTCOME_INCOMPLETE = "ok", "failed", "incomplete"
UNKNOWN: Final = "unknown"
"""The operation of a request none of whose steps says which it is; never incomplete."""

Step = tuple[str, str]
"""(server, action)"""


@dataclass(frozen=True, slots=True)
class Group:
    """Steps that belong together, in order."""

    steps: tuple[Step, ...]
    optional: bool = False
    repeats: bool = False


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation; ``last`` is the step after which nothing more is to come."""

    name: str
    groups: tuple[Group, ...]

    @property
    def first(self) -> Step:
        """What it is known by."""
        return self.groups[0].steps[0]

    @property
    def last(self) -> Step:
        """The last step that it must have."""
        return [group for group in self.groups if not group.optional][-1].steps[-1]

    @property
    def steps(self) -> tuple[Step, ...]:
        """All of its steps."""
        return tuple(step for group in self.groups for step in group.steps)


def _steps(server: str, *actions: str) -> tuple[Step, ...]:
    return tuple((server, action) for action in actions)


OPERATIONS: Final[dict[str, Operation]] = {
    operation.name: operation
    for operation in (
        Operation("login", (Group(_steps(LOGIN, "LoginReq", "LoginDbReq", "LoginRep")),)),
        Operation("logout", (Group(_steps(LOGIN, "LogoutReq")),)),
        Operation(
            "catalog", (Group(_steps(CATALOG, "CatalogReq", "CatalogDbReq", "CatalogDbRep")),)
        ),
        Operation(
            "product",
            (
                Group(
                    _steps(
                        CATALOG, "CatalogProductReq", "CatalogProductDbReq", "CatalogProductDbRep"
                    )
                ),
                Group(
                    _steps(CATALOG, "CatalogLinkedProductsDbReq", "CatalogLinkedProductsDbRep"),
                    optional=True,
                ),
            ),
        ),
        Operation("add_to_cart", (Group(_steps(CART, "CartReqAdd", "CartDbReq", "CartDbRep")),)),
        Operation(
            "reserve",
            (
                Group(_steps(RESERVATION, "ReserveReq", "ReserveDbReq")),
                # The cart is asked what is in it.
                Group(_steps(CART, "CartDbReq", "CartDbRep"), optional=True),
                Group(_steps(RESERVATION, "ReserveRep")),
            ),
        ),
        Operation(
            "cancel_reservation",
            (Group(_steps(RESERVATION, "CancelReservationReq", "CancelReservationRep")),),
        ),
        Operation(
            "buy",
            (
                Group(_steps(PAYMENT, "BuyReq")),
                # What was reserved is looked up before it is paid for.
                Group(_steps(RESERVATION, "ReserveDbReq"), optional=True),
                Group(_steps(PAYMENT, "PaymentProviderReq", "PaymentProviderRep"), repeats=True),
                Group(_steps(PAYMENT, "BuyRep")),
            ),
        ),
        Operation(
            "refund",
            (
                Group(_steps(PAYMENT, "RefundReq")),
                Group(
                    _steps(PAYMENT, "PaymentProviderReq", "PaymentProviderRep"),
                    optional=True,
                    repeats=True,
                ),
                Group(_steps(PAYMENT, "RefundRep")),
            ),
        ),
    )
}

BY_FIRST_STEP: Final[dict[Step, str]] = {
    operation.first: operation.name for operation in OPERATIONS.values()
}


def _owners() -> dict[Step, list[str]]:
    owners: dict[Step, list[str]] = {}
    for operation in OPERATIONS.values():
        for step in dict.fromkeys(operation.steps):
            owners.setdefault(step, []).append(operation.name)
    return owners


BY_STEP: Final[dict[Step, tuple[str, bool]]] = {
    step: (names[0], len(names) == 1) for step, names in _owners().items()
}
"""The first operation of OPERATIONS that has a step, and whether it alone has it."""


def operation_of(steps: Iterable[Step]) -> str:
    """The operation that a request with these steps, in order of time, is of.

    The first of them that is the first step of an operation decides. Where none is (it was
    lost), the first that one operation alone has; where none is, the first that any has, and of
    those that have it the first in OPERATIONS. Where none is known, it is UNKNOWN.
    """
    own, shared = UNKNOWN, UNKNOWN
    for step in steps:
        name = BY_FIRST_STEP.get(step)
        if name is not None:
            return name
        found, alone = BY_STEP.get(step, (UNKNOWN, False))
        if alone and own == UNKNOWN:
            own = found
        elif shared == UNKNOWN:
            shared = found
    return own if own != UNKNOWN else shared


def missing_step(operation: str, counts: Mapping[Step, int]) -> Step | None:
    """The first step that a request of this operation lacks; ``counts`` is how often each came.

    None where nothing is missing, and for an operation that is not in OPERATIONS.
    """
    known = OPERATIONS.get(operation)
    for group in known.groups if known else ():
        most = max(counts.get(step, 0) for step in group.steps)
        wanted = most if group.repeats else min(1, most)
        if not group.optional:
            wanted = max(1, wanted)
        for step in group.steps:
            if counts.get(step, 0) < wanted:
                return step
    return None


def outcome_of(missing: Step | None, *, failed: bool) -> str:
    """``incomplete`` where a step is missing, else ``failed`` where one failed, else ``ok``."""
    if missing is not None:
        return OUTCOME_INCOMPLETE
    return OUTCOME_FAILED if failed else OUTCOME_OK
