"""``platform_logs``: the log of a fleet of microservices that serve a shop.

There is one record per step of a request. Ids come flat (``17``, ``"a1"``) or nested (``{"userId":
17}``), as integers or strings; ``id_text`` gives their normal form, which is text: 17 and "17" are
the same user. Unknown actions, servers and fields are accepted; a field that is named here and has
a wrong type is not. The steps of each operation are in ``schemas.operations``.
"""

from __future__ import annotations

from typing import Annotated, Final

from msgspec import Meta, Struct

SESSION_TIMEOUT_S: Final = 1_800
"""Seconds of event time after the last record at which a user is offline."""
LOGIN_FAILURES_MAX: Final = 3
"""Most failed logins of one user within LOGIN_WINDOW_S that raise no alert."""
LOGIN_WINDOW_S: Final = 30
"""Length of the window, which slides by whole seconds and holds this many of them."""

LOGIN, CATALOG, CART, RESERVATION, PAYMENT = SERVERS = (
    "Login",
    "Catalog",
    "Cart",
    "Reservation",
    "Payment",
)

ACTIONS: Final[dict[str, tuple[str, ...]]] = {
    LOGIN: ("LoginReq", "LoginDbReq", "LoginRep", "LogoutReq"),
    CATALOG: (
        "CatalogReq",
        "CatalogDbReq",
        "CatalogDbRep",
        "CatalogProductReq",
        "CatalogProductDbReq",
        "CatalogProductDbRep",
        "CatalogLinkedProductsDbReq",
        "CatalogLinkedProductsDbRep",
    ),
    CART: ("CartReqAdd", "CartDbReq", "CartDbRep"),
    RESERVATION: (
        "ReserveReq",
        "ReserveDbReq",
        "ReserveRep",
        "CancelReservationReq",
        "CancelReservationRep",
    ),
    PAYMENT: (
        "BuyReq",
        "PaymentProviderReq",
        "PaymentProviderRep",
        "BuyRep",
        "RefundReq",
        "RefundRep",
    ),
}
"""Actions by server, in the order in which they come within a request."""

VALID, INVALID = "Valid", "Invalid"
OK, DECLINED, TIMEOUT, OVERLOADED, ERROR = "Ok", "Declined", "Timeout", "Overloaded", "Error"
FAILED_STATUSES: Final = frozenset({INVALID, DECLINED, TIMEOUT, OVERLOADED, ERROR})

IdText = Annotated[str, Meta(min_length=1, max_length=200)]
IdNumber = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
Name = Annotated[str, Meta(min_length=1, max_length=200)]
Cents = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]


class NestedUserId(Struct, gc=False, frozen=True):
    """``{"userId": 17}``"""

    userId: IdNumber | IdText  # noqa: N815


class NestedRequestId(Struct, gc=False, frozen=True):
    """``{"requestId": "a1"}``"""

    requestId: IdNumber | IdText  # noqa: N815


class NestedProductId(Struct, gc=False, frozen=True):
    """``{"productId": 5}``"""

    productId: IdNumber | IdText  # noqa: N815


UserId = IdNumber | IdText | NestedUserId
RequestId = IdNumber | IdText | NestedRequestId
ProductId = IdNumber | IdText | NestedProductId


class ListedProduct(Struct, gc=False, frozen=True):
    """A product of a list that was shown: ``{"productId": 5}``, or with the id nested again."""

    productId: ProductId  # noqa: N815


class CommonData(Struct, gc=False, frozen=True):
    """Fields of every record. ``time`` is ISO 8601; without a zone it is UTC."""

    time: str
    userId: UserId  # noqa: N815
    requestId: RequestId  # noqa: N815
    serverName: Name  # noqa: N815


class Data(Struct, gc=False, frozen=True):
    """Fields of only some actions."""

    status: str | None = None
    productId: ProductId | None = None  # noqa: N815
    products: list[ListedProduct] | None = None
    amount_cents: Cents | None = None
    provider: str | None = None
    error: str | None = None


NO_DATA: Final = Data()


class PlatformLog(Struct, gc=False, frozen=True):
    """One record of the topic."""

    action: Name
    commonData: CommonData  # noqa: N815
    data: Data | None = NO_DATA


def id_text(
    value: int | str | NestedUserId | NestedRequestId | NestedProductId,
) -> str:
    """Return the normal form of an id, however it came."""
    kind = type(value)
    if kind is str or kind is int:
        return str(value)
    if kind is NestedUserId:
        return str(value.userId)  # type: ignore[union-attr]
    if kind is NestedRequestId:
        return str(value.requestId)  # type: ignore[union-attr]
    return str(value.productId)  # type: ignore[union-attr]


def is_failed(status: str | None, error: str | None) -> bool:
    """Return whether a step failed: its status says so, or it has an error that is not empty."""
    return bool(error) or status in FAILED_STATUSES
