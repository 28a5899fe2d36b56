"""Records of the shop's services and customers: which are accepted, and what they mean."""

from __future__ import annotations

import json
import pickle
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from footfall.schemas import shop_events
from footfall.schemas.operations import (
    OPERATIONS,
    UNKNOWN,
    Step,
    missing_step,
    operation_of,
    outcome_of,
)
from footfall.schemas.platform_logs import ACTIONS, NO_DATA, PlatformLog, id_text, is_failed
from footfall.schemas.shop_events import (
    SCHEMA,
    Field,
    Kind,
    ShopEvent,
    compatible,
    incompatibilities,
)
from footfall.schemas.topics import LOGIN_ALERTS, PLATFORM_LOGS, SHOP_EVENTS, TOPICS

VERSION_1 = shop_events.schema_of(
    json.loads((Path(__file__).parent / "shop_events_v1.json").read_bytes())
)

log_of = msgspec.json.Decoder(PlatformLog).decode
event_of = msgspec.json.Decoder(ShopEvent).decode


def log(user: Any = 17, request: Any = "a1", **data: Any) -> bytes:
    common = {"time": "t", "userId": user, "requestId": request, "serverName": "Login", "x": 1}
    return msgspec.json.encode(
        {"action": "Anything", "commonData": common, "data": data, "more": {}}
    )


@pytest.mark.parametrize("user", [17, "17", {"userId": 17}, {"userId": "17", "other": None}])
@pytest.mark.parametrize("request_id", ["17", {"requestId": 17}])
def test_ids_of_either_shape_and_type_are_the_same_text(user: Any, request_id: Any) -> None:
    common = log_of(log(user, request_id)).commonData
    assert (id_text(common.userId), id_text(common.requestId)) == ("17", "17")


def test_products_are_listed_flat_or_nested() -> None:
    record = log_of(log(products=[{"productId": 5}, {"productId": {"productId": "x"}, "n": 1}]))
    assert record.data is not None and record.data.products is not None
    assert [id_text(product.productId) for product in record.data.products] == ["5", "x"]


def test_a_record_may_have_no_data() -> None:
    record = msgspec.json.decode(log())
    for without in (record | {"data": None}, {k: v for k, v in record.items() if k != "data"}):
        assert (log_of(msgspec.json.encode(without)).data or NO_DATA) == NO_DATA


@pytest.mark.parametrize("user", [None, "", 1.5, True, [1], {"user": 1}, {"userId": {}}, 2**70])
def test_what_is_no_id_is_refused(user: Any) -> None:
    with pytest.raises(msgspec.ValidationError):
        log_of(log(user))


def test_a_status_or_an_error_makes_a_step_fail() -> None:
    assert is_failed("Declined", None) and is_failed("Ok", "disk is full")
    assert not is_failed(None, "") and not is_failed("Valid", None) and not is_failed("New", None)


def buy(tries: int, *, reserved: bool = False) -> list[Step]:
    provider = [("Payment", "PaymentProviderReq"), ("Payment", "PaymentProviderRep")]
    lookup = [("Reservation", "ReserveDbReq")] if reserved else []
    return [("Payment", "BuyReq"), *lookup, *provider * tries, ("Payment", "BuyRep")]


def told(steps: list[Step]) -> tuple[str, Step | None]:
    operation = operation_of(steps)
    return operation, missing_step(operation, Counter(steps))


@pytest.mark.parametrize("name", OPERATIONS)
def test_each_lost_step_is_named(name: str) -> None:
    whole = list(OPERATIONS[name].steps)
    assert told(whole) == (name, None)
    for lost in whole:
        rest = [step for step in whole if step != lost]
        if (name, lost) == ("buy", ("Reservation", "ReserveDbReq")):
            assert told(rest) == (name, None), "it is all of an optional group"
        elif rest:
            assert told(rest) == (name, lost)


def test_a_payment_may_be_tried_again_and_each_try_has_its_answer() -> None:
    for tries in (1, 2, 3):
        for reserved in (True, False):
            assert told(buy(tries, reserved=reserved)) == ("buy", None)
    steps = buy(3)
    steps.remove(("Payment", "PaymentProviderRep"))
    assert told(steps) == ("buy", ("Payment", "PaymentProviderRep"))
    assert told(buy(0)) == ("buy", ("Payment", "PaymentProviderReq"))


def test_unknown_steps_neither_help_nor_harm() -> None:
    assert told([("Search", "SearchReq"), *buy(1)]) == ("buy", None)
    assert told([("Search", "SearchReq")]) == (UNKNOWN, None)
    assert told([]) == (UNKNOWN, None)


def test_a_missing_step_matters_more_than_a_failed_one() -> None:
    assert outcome_of(("Payment", "BuyRep"), failed=True) == "incomplete"
    assert outcome_of(None, failed=True) == "failed"
    assert outcome_of(None, failed=False) == "ok"


def test_operations_are_made_of_the_actions_of_the_catalogue() -> None:
    known = {(server, action) for server, actions in ACTIONS.items() for action in actions}
    assert {step for one in OPERATIONS.values() for step in one.steps} == known


SAMPLES = {"int": 5, "double": 1.5, "text": "wool", "code": None}


@pytest.mark.parametrize("kind", SCHEMA.kinds.values(), ids=lambda kind: kind.name)
def test_each_kind_is_decoded_and_its_optional_fields_may_be_absent(kind: Kind) -> None:
    needed: dict[str, Any] = {"event": kind.name, "timestamp": "2022-03-22T12:00", "user_id": 7}
    full = dict(needed)
    for field in kind.fields:
        value = next(iter(field.codes)) if field.codes else SAMPLES[field.type]
        full[field.name] = value
        if not field.optional:
            needed[field.name] = value
    own = [field.name for field in kind.fields] + ["timestamp", "user_id"]
    for record in (full, needed, full | {"more": 1}):
        event = event_of(msgspec.json.encode(record))
        assert type(event) is shop_events.STRUCTS[kind.name]
        assert all(getattr(event, name) == record[name] for name in record if name in own)
        assert pickle.loads(pickle.dumps(event)) == event
    for name in needed:
        with pytest.raises(msgspec.ValidationError):
            event_of(msgspec.json.encode({k: v for k, v in needed.items() if k != name}))
    for field in kind.fields:
        wrong = 99 if field.codes else [1]
        with pytest.raises(msgspec.ValidationError):
            event_of(msgspec.json.encode(full | {field.name: wrong}))


def test_there_are_21_kinds_and_flows_of_version_1_can_read_them() -> None:
    assert len(SCHEMA.kinds) == 21
    assert incompatibilities(VERSION_1, SCHEMA) == []
    if SCHEMA.version == 1:
        assert SCHEMA == VERSION_1, "a change takes a higher version"


def changed(kind: str, *fields: Field, version: int = 2) -> shop_events.Schema:
    return shop_events.Schema(version, dict(VERSION_1.kinds) | {kind: Kind(kind, fields)})


def test_a_new_optional_field_is_fine_with_a_higher_version() -> None:
    page, referrer = Field("page_id", "int"), Field("referrer", "text", optional=True)
    assert compatible(VERSION_1, changed("PageVisit", page, referrer))
    assert compatible(VERSION_1, changed("PageVisit", referrer, page))
    [reason] = incompatibilities(VERSION_1, changed("PageVisit", page, referrer, version=1))
    assert "still 1" in reason
    assert not compatible(changed("PageVisit", page, referrer), VERSION_1)


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        (changed("PageVisit", Field("page_id", "text")), "PageVisit.page_id: was"),
        (changed("PageVisit", Field("page_id", "int", optional=True)), "PageVisit.page_id: was"),
        (changed("PageVisit"), "PageVisit.page_id: the field is gone"),
        (changed("Registering", Field("via", "text")), "Registering.via: a new field that is not"),
        (changed("Registering", Field("event", "text", optional=True)), "has that name already"),
        (changed("LoggingIn", Field("login_type", "code", codes={0: "any"})), "LoggingIn"),
        (
            changed("ReviewCreating", Field("item_id", "int"), Field("review_id", "int")),
            "another order",
        ),
        (changed("Wishing"), "Wishing: a new kind"),
        (replace(VERSION_1, version=0), "version 0 comes after 1"),
        (
            shop_events.Schema(
                2, {k: v for k, v in VERSION_1.kinds.items() if k != "PromoUsage"}
            ),
            "PromoUsage: the kind is gone",
        ),
    ],
)  # fmt: skip
def test_any_other_change_is_refused(schema: shop_events.Schema, reason: str) -> None:
    assert any(reason in found for found in incompatibilities(VERSION_1, schema))


def test_the_topics_are_keyed_by_user() -> None:
    keys = {topic.name: topic.key for topic in (PLATFORM_LOGS, SHOP_EVENTS, LOGIN_ALERTS)}
    assert keys == {
        "platform_logs": "commonData.userId",
        "shop_events": "user_id",
        "login_alerts": "user_id",
    }
    assert keys.keys() <= TOPICS.keys()
