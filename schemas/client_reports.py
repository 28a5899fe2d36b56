"""``visits`` and ``activities``: reports of the shop's clients about themselves, over HTTP."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import UNSET, Meta, Struct, UnsetType

ClientId = Annotated[str, Meta(min_length=1, max_length=512)]


class ClientReport(Struct, gc=False, frozen=True):
    """One record of either topic: ``time`` is ISO 8601, ``report`` is free."""

    time: str
    client_id: ClientId
    report: dict[str, Any]
    user_id: str | int | UnsetType = UNSET
