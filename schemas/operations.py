"""Operations of a shop's services, as data: the steps that a request of each must log.

An operation is known by its first step (``BuyReq``) or, where that step was lost, by another one
(see ``operation_of``). Its steps are in groups, in order:

required    every step of the group must be there
optional    all or nothing: once one step of the group is there, all of them must be
repeats     the group may come several times (another try); each of its steps must be there as
            often as the step of the group that came most often

The missing step is the first one, in the order of the groups, that is not there as often as it
must be. Steps of other operations and unknown steps neither help nor harm. The order in which the
steps came does not matter, so that the answer is the same however late they were.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from footfall.schemas.platform_logs import CART, CATALOG, LOGIN, PAYMENT, RESERVATION

OUTCOME_OK, OUTCOME_FAILED, OUTCOME_INCOMPLETE = "ok", "failed", "incomplete"
UNKNOWN: Final = "unknown"
"""Operation of a request whose steps do not say which it is; never incomplete."""

Step = tuple[str, str]
"""Step of a request: (server, action)."""


@dataclass(frozen=True, slots=True)
class Group:
    """Steps that belong together, in order."""

    steps: tuple[Step, ...]
    optional: bool = False
    repeats: bool = False


@dataclass(frozen=True, slots=True)
class Operation:
    """An operation; ``last`` is the step after which nothing more is to come."""

    name: str
    groups: tuple[Group, ...]

    @property
    def first(self) -> Step:
        """Return the step by which it is known."""
        return self.groups[0].steps[0]

    @property
    def last(self) -> Step:
        """Return the last step that it must have."""
        return [group for group in self.groups if not group.optional][-1].steps[-1]

    @property
    def steps(self) -> tuple[Step, ...]:
        """Return all of its steps."""
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
                # The reservation asks for the cart's content.
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
                # The reserved products are looked up before they are paid for.
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
"""First operation of OPERATIONS that has a step, and whether it is the only one."""


def operation_of(steps: Iterable[Step]) -> str:
    """Return the operation of a request with these steps, in order of time.

    The first step that is the first step of an operation decides. If all such steps were lost, the
    first step that only one operation has decides. Otherwise it is the first known step, and of
    the operations that have it the first in OPERATIONS. If no step is known, it is UNKNOWN.
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
    """Return the first step that a request of this operation lacks; ``counts`` is by step.

    Returns None where nothing is missing, and for an operation that is not in OPERATIONS.
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
    """Return ``incomplete`` with a missing step, else ``failed`` with a failed one, else
    ``ok``."""
    if missing is not None:
        return OUTCOME_INCOMPLETE
    return OUTCOME_FAILED if failed else OUTCOME_OK
