"""Columns of a batch's frame that flows take from ``platform_logs`` records.

A flow names the columns it needs: ``LOGS = records("user_id", "request_id", "server", "log")``.

user_id, request_id           String, in the normal form of an id
server, log                   String: the service, and the action that it logged
status, error, provider       String, null where the record has none
failed                        Boolean: ``schemas.platform_logs.is_failed`` of the record
product_id                    String, in the normal form of an id, null where there is none
amount_cents                  Int64, null where there is none
products                      List(String), the ids that were listed; null where there are none

Every column costs each record some tens of nanoseconds, where the call of a function would cost
a hundred: hence the tests of types within the comprehensions.
"""

from __future__ import annotations

from itertools import chain
from typing import Any, Final

import numpy as np
import polars as pl

from footfall.schemas.platform_logs import (
    FAILED_STATUSES,
    NO_DATA,
    NestedProductId,
    NestedRequestId,
    NestedUserId,
    PlatformLog,
)
from footfall.schemas.topics import PLATFORM_LOGS
from footfall.streams.columns import Column, boolean, ident, ident_series, integer, text
from footfall.streams.decode import Records


def event_times(logs: list[Any]) -> list[str]:
    """Return the event times of records."""
    return [log.commonData.time for log in logs]


def _user_ids(logs: list[Any]) -> list[Any]:
    return [of.userId if type(of := log.commonData.userId) is NestedUserId else of for log in logs]


def _request_ids(logs: list[Any]) -> list[Any]:
    return [
        of.requestId if type(of := log.commonData.requestId) is NestedRequestId else of
        for log in logs
    ]


def _product_ids(logs: list[Any]) -> list[Any]:
    return [
        of.productId if type(of := (log.data or NO_DATA).productId) is NestedProductId else of
        for log in logs
    ]


def listed_in(log: PlatformLog) -> list[Any] | None:
    """Return the products that a record lists, as ids of either type; None where there are
    none."""
    return [
        of.productId if type(of := product.productId) is NestedProductId else of
        for product in (log.data or NO_DATA).products or ()
    ] or None


def _id_lists(name: str, values: list[Any]) -> pl.Series:
    """Return a List(String) series of the lists of ids; a missing or empty list becomes null."""
    counts = np.array([len(listed) if listed else 0 for listed in values], dtype=np.int64)
    flat = ident_series(name, [*chain.from_iterable(filter(None, values))])
    row = pl.Series("row", np.repeat(np.arange(len(values)), counts))
    lists = pl.DataFrame([row, flat]).group_by("row", maintain_order=True).agg(name)[name]
    has_any = counts > 0
    place = pl.Series(np.cumsum(has_any) - 1).set(~pl.Series(has_any), None)
    return lists.gather(place)


_NO_ERROR: Final = (None, "")

USER: Final = ident(_user_ids)
REQUEST: Final = ident(_request_ids)
SERVER: Final = text(lambda logs: [log.commonData.serverName for log in logs])
ACTION: Final = text(lambda logs: [log.action for log in logs])
STATUS: Final = text(lambda logs: [(log.data or NO_DATA).status for log in logs])
ERROR: Final = text(lambda logs: [(log.data or NO_DATA).error for log in logs])
FAILED: Final = boolean(
    lambda logs: [
        (data := log.data) is not None
        and (
            ((status := data.status) is not None and status in FAILED_STATUSES)
            or data.error not in _NO_ERROR
        )
        for log in logs
    ]
)
PROVIDER: Final = text(lambda logs: [(log.data or NO_DATA).provider for log in logs])
PRODUCT: Final = ident(_product_ids)
AMOUNT: Final = integer(lambda logs: [(log.data or NO_DATA).amount_cents for log in logs])
PRODUCTS: Final = Column(lambda logs: [*map(listed_in, logs)], _id_lists)

COLUMNS: Final[dict[str, Column]] = {
    "user_id": USER,
    "request_id": REQUEST,
    "server": SERVER,
    "log": ACTION,
    "status": STATUS,
    "error": ERROR,
    "failed": FAILED,
    "provider": PROVIDER,
    "product_id": PRODUCT,
    "amount_cents": AMOUNT,
    "products": PRODUCTS,
}


def product_of(log: PlatformLog) -> Any:
    """Return the product that a record is about, as an id of either type; None where there is
    none."""
    product = (log.data or NO_DATA).productId
    return product.productId if type(product) is NestedProductId else product


def records(*columns: str, **more: Column) -> Records:
    """Return the reader of the topic with these of COLUMNS and, by name, the flow's own ``more``.

    Raises KeyError for a name that is not in COLUMNS.
    """
    return Records.of(
        PLATFORM_LOGS,
        {name: COLUMNS[name] for name in columns} | more,
        times=event_times,
    )
