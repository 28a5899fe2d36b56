"""``shop_events``: 21 kinds of customer behaviour on a marketplace, described as data.

``SCHEMA`` says which fields a kind has. The structs that decode a record (``STRUCTS``,
``ShopEvent``) follow from it, and so can tables. A later version may only add optional fields:
``incompatibilities`` says what an old flow could not read.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta, Struct

FieldType = Literal["int", "double", "text", "code"]

Int64 = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]


@dataclass(frozen=True, slots=True)
class Field:
    """A field of a kind, besides those that all kinds have.

    ``code`` is a small whole number, one of ``codes``, which says what each stands for. An
    optional field may be absent or null.
    """

    name: str
    type: FieldType
    optional: bool = False
    codes: Mapping[int, str] | None = None


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of event; ``name`` is the value of its field ``event``."""

    name: str
    fields: tuple[Field, ...] = ()


@dataclass(frozen=True, slots=True)
class Schema:
    """All kinds of one version."""

    version: int
    kinds: Mapping[str, Kind]


TAG: Final = "event"
TIME: Final = "timestamp"
USER: Final = "user_id"
COMMON: Final = (TAG, TIME, USER)
"""Fields of every kind: its name, a time (ISO 8601, UTC without a zone), a user (int)."""

LOGIN_TYPES = {0: "mail and password", 1: "phone and code", 2: "external"}
SUBSCRIPTION_TYPES = {1: "all", 2: "item offers", 3: "themed sales"}
SUPPORT_TYPES = {1: "mail", 2: "call", 3: "chat"}
COMPARISON_TYPES = {0: "other", 1: "price", 2: "features", 3: "delivery date"}
REASON_TYPES = {0: "other", 1: "defect", 2: "expired", 3: "wrong size", 4: "poor quality"}


def _int(name: str, *, optional: bool = False) -> Field:
    return Field(name, "int", optional)


def _code(name: str, codes: Mapping[int, str]) -> Field:
    return Field(name, "code", codes=codes)


_KINDS = (
    Kind("PageVisit", (_int("page_id"),)),
    Kind("Searching", (Field("query", "text"),)),
    Kind(
        "Filtering",
        tuple(
            Field(name, "double", optional=True)
            for name in ("price_min", "price_max", "rating_min", "rating_max")
        ),
    ),
    Kind("CartAdd", (_int("item_id"),)),
    Kind("CartDelete", (_int("item_id"),)),
    Kind("Ordering", (_int("order_id"),)),
    Kind("OrderCancel", (_int("order_id"),)),
    Kind("ReviewReview", (_int("review_id"),)),
    Kind("ReviewCreating", (_int("review_id"), _int("item_id"))),
    Kind("Registering"),
    Kind("LoggingIn", (_code("login_type", LOGIN_TYPES),)),
    Kind("ProfileEdit"),
    Kind("MailingSubscription", (_code("subscription_type", SUBSCRIPTION_TYPES),)),
    Kind("SupportContact", (_code("support_type", SUPPORT_TYPES),)),
    Kind("RecommendationView", (Field("duration_seconds", "double"),)),
    Kind("SaleParticipation", (_int("sale_id"), _int("item_id"))),
    Kind(
        "ItemComparison",
        (
            _int("first_item_id"),
            _int("second_item_id"),
            _code("comparison_type", COMPARISON_TYPES),
        ),
    ),
    Kind("OrderHistoryViewing", (Field("duration_seconds", "double"),)),
    Kind(
        "ItemReturn",
        (
            _int("item_id"),
            _int("order_id"),
            _code("reason_type", REASON_TYPES),
            Field("reason_user_message", "text", optional=True),
        ),
    ),
    Kind("PromoUsage", (_int("coupon_id"), _int("order_id"))),
    Kind("CategoryView", (_int("category_id"), _int("parent_category_id", optional=True))),
)

SCHEMA: Final = Schema(version=1, kinds={kind.name: kind for kind in _KINDS})
KINDS: Final = tuple(SCHEMA.kinds)


def struct_of(kind: Kind) -> type[Struct]:
    """Return the struct that decodes a kind: ``timestamp``, ``user_id``, then its own fields."""
    needed: list[tuple[str, Any]] = [(TIME, str), (USER, Int64)]
    optional: list[tuple[str, Any, Any]] = []
    for field in kind.fields:
        if field.optional:
            optional.append((field.name, _python_type(field) | None, None))
        else:
            needed.append((field.name, _python_type(field)))
    return msgspec.defstruct(
        kind.name,
        [*needed, *optional],
        module=__name__,
        tag_field=TAG,
        tag=kind.name,
        gc=False,
        frozen=True,
    )


def _python_type(field: Field) -> Any:
    if field.type == "code":
        return Literal[tuple(field.codes or ())]
    return {"int": Int64, "double": float, "text": str}[field.type]


STRUCTS: Final[dict[str, type[Struct]]] = {kind.name: struct_of(kind) for kind in _KINDS}
"""Struct of each kind; its ``__struct_config__.tag`` is the kind's name."""

# Structs are pickled by their name in their module.
globals().update(STRUCTS)

ShopEvent: Final[Any] = functools.reduce(operator.or_, STRUCTS.values())
"""Union of all kinds, as a type to decode into."""


def described(schema: Schema) -> dict[str, Any]:
    """Return a schema as plain values that can be kept as JSON; ``schema_of`` takes them back."""
    return {
        "version": schema.version,
        "kinds": {
            kind.name: [
                {"name": field.name, "type": field.type}
                | ({"optional": True} if field.optional else {})
                | ({"codes": {str(k): v for k, v in field.codes.items()}} if field.codes else {})
                for field in kind.fields
            ]
            for kind in schema.kinds.values()
        },
    }


def schema_of(description: Mapping[str, Any]) -> Schema:
    """Return the schema that ``described`` gave. Raises KeyError for any other mapping."""
    kinds = {
        name: Kind(
            name,
            tuple(
                Field(
                    field["name"],
                    field["type"],
                    field.get("optional", False),
                    {int(k): v for k, v in field["codes"].items()} if "codes" in field else None,
                )
                for field in fields
            ),
        )
        for name, fields in description["kinds"].items()
    }
    return Schema(description["version"], kinds)


def incompatibilities(old: Schema, new: Schema) -> list[str]:
    """Return why flows of the old version could not read the new one; empty if they can.

    A new optional field is fine, with a higher version. Nothing else is: not another order of the
    old fields, because tables have their columns in it; nor a new code, which an old flow would
    refuse.
    """
    gone, fresh = old.kinds.keys() - new.kinds.keys(), new.kinds.keys() - old.kinds.keys()
    found = [f"{name}: the kind is gone" for name in sorted(gone)]
    found += [
        f"{name}: a new kind, which flows of version {old.version} refuse"
        for name in sorted(fresh)
    ]
    added = 0
    for name, kind in old.kinds.items():
        if name in new.kinds:
            found += _incompatible_fields(kind, new.kinds[name])
            added += len(new.kinds[name].fields) - len(kind.fields)
    if not found and added and new.version <= old.version:
        found.append(f"fields were added, but the version is still {new.version}")
    if new.version < old.version:
        found.append(f"version {new.version} comes after {old.version}")
    return found


def compatible(old: Schema, new: Schema) -> bool:
    """Return whether flows of the old version can read what the new one writes."""
    return not incompatibilities(old, new)


def _incompatible_fields(old: Kind, new: Kind) -> list[str]:
    found = []
    names = {field.name: field for field in new.fields}
    for field in old.fields:
        now = names.get(field.name)
        if now is None:
            found.append(f"{old.name}.{field.name}: the field is gone")
        elif now != field:
            found.append(f"{old.name}.{field.name}: was {field}, is {now}")
    before = {field.name for field in old.fields}
    kept = [field.name for field in new.fields if field.name in before]
    if len(names) != len(new.fields):
        found.append(f"{old.name}: a field is there twice")
    elif not found and kept != [field.name for field in old.fields]:
        found.append(f"{old.name}: the fields are in another order")
    for field in new.fields:
        if field.name in COMMON:
            found.append(f"{old.name}.{field.name}: every kind has that name already")
        elif field.name not in before and not field.optional:
            found.append(f"{old.name}.{field.name}: a new field that is not optional")
    return found
