"""Inspecting a request's text in the embedded ClickHouse before the engine reads it."""

from __future__ import annotations

import io
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from footfall.infra._clickhouse_bodies import BodyError, form_fields
from footfall.infra._clickhouse_config import GRANTS, check_grants
from footfall.infra._clickhouse_errors import EngineError, engine_error
from footfall.infra._clickhouse_sql import InsertWithData, insert_with_data
from footfall.infra._clickhouse_statements import inspected, inspected_plain

BINARY = st.binary(max_size=40)


@given(data=BINARY, gap=st.sampled_from([b"\n", b" \n", b"\r\n", b"\t\r\n"]))
@example(data=b"\n\n", gap=b"\n")
@example(data=b"FORMAT CSV", gap=b"\n")
def test_data_begins_after_one_line_end(data: bytes, gap: bytes) -> None:
    head = b"INSERT INTO t (a, `b)`) SETTINGS x = 'FORMAT' FORMAT Native"
    found = insert_with_data(head + gap + data)
    assert found is not None
    assert (head + gap + data)[found.data_starts :] == data
    assert found.data_format == "Native"
    assert found.statement == b"INSERT INTO t (a, `b)`) "
    assert found.settings == b"SETTINGS x = 'FORMAT' "


@pytest.mark.parametrize(
    ("text", "data_format", "data"),
    [
        (b"insert into db.format format csv 1,2", "csv", b"1,2"),
        (b"INSERT INTO TABLE t VALUES (1)", "Values", b" (1)"),
        (b"INSERT INTO values VALUES (1)", "Values", b" (1)"),
        (b"-- a comment; FORMAT\nINSERT /* x */ INTO t FORMAT CSV\n1", "CSV", b"1"),
        (b"INSERT INTO FUNCTION null('a Int8') FORMAT CSV\n1", "CSV", b"1"),
        (b"INSERT INTO {t:Identifier} FORMAT CSV\n1", "CSV", b"1"),
        (b'INSERT INTO "my values" (a) FORMAT CSV\n', "CSV", b""),
    ],
)
def test_an_insert_with_data_is_told_from_its_data(
    text: bytes, data_format: str, data: bytes
) -> None:
    found = insert_with_data(text)
    assert found is not None
    assert (found.data_format, text[found.data_starts :]) == (data_format, data)


@pytest.mark.parametrize(
    "text",
    [b"", b"SELECT 1 FORMAT CSV", b"INSERT INTO t SELECT 1 FORMAT CSV", b"INSERT INTO t",
     b"INSERT INTO t WITH 1 AS x SELECT x", b"INSERT INTO t FORMAT", b"INSERT"],
)  # fmt: skip
def test_other_statements_carry_no_data(text: bytes) -> None:
    assert insert_with_data(text) is None


@given(BINARY)
def test_no_text_is_too_odd(text: bytes) -> None:
    assert isinstance(insert_with_data(b"INSERT INTO t " + text), InsertWithData | None)


def test_an_error_is_unwrapped() -> None:
    inner = "Code: 27. DB::Exception: Cannot parse\nrow 2. (CANNOT_PARSE) (version 26.9)"
    wrapped = f"Streaming insert failed: Code: 27. DB::Exception: {inner}. (CANNOT_PARSE)"
    found = engine_error(RuntimeError(wrapped))
    assert (found.code, found.text) == (27, inner)
    assert engine_error(RuntimeError("odd")).code == 1002


@given(st.dictionaries(st.from_regex(r"[a-z_]{1,9}", fullmatch=True), BINARY, max_size=4))
def test_form_fields_come_back_as_they_were_sent(fields: dict[str, bytes]) -> None:
    boundary = b"b-0d9e2c"
    body = io.BytesIO()
    for name, value in fields.items():
        head = b'Content-Disposition: form-data; name="%s"' % name.encode()
        body.write(b"--%s\r\n%s\r\n\r\n%s\r\n" % (boundary, head, value))
    body.write(b"--%s--\r\n" % boundary)
    content_type = f"multipart/form-data; boundary={boundary.decode()}"
    assert form_fields(body.getvalue(), content_type) == fields
    with pytest.raises(BodyError):
        form_fields(body.getvalue()[:-4], content_type)


def select(*of: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"type": "SelectWithUnionQuery", "list_of_selects": {"children": list(of)}, **more}


def insert(file: str) -> dict[str, Any]:
    literal = {"type": "Literal", "value": {"field_type": "String", "value": file}}
    return {"type": "InsertQuery", "format": "CSV", "infile": literal}


def test_what_a_tree_is() -> None:
    assert inspected(select(), ()).reads
    assert inspected(select(format_ast={"name": "JSON"}), ()).answer_format == "JSON"
    assert not inspected(insert("ours"), (), "ours").reads
    deep: dict[str, Any] = {"type": "Literal"}
    for _ in range(20_000):
        deep = {"type": "Subquery", "children": [deep]}
    assert inspected(select(deep), ()).reads


def setting(name: str) -> dict[str, Any]:
    return {"type": "SetQuery", "changes": [{"name": name, "value": {"field_type": "String"}}]}


@pytest.mark.parametrize(
    ("tree", "data_file"),
    [
        ({"type": "SystemQuery"}, None),
        ({"type": "SomethingNew"}, None),
        ({}, None),
        (setting("max_threads"), None),
        ({"type": "CreateQuery", "is_temporary": True}, None),
        ({"type": "CreateQuery", "has_attach_from_path": True}, None),
        (insert("ours"), None),
        (insert("another"), "ours"),
        ({"type": "InsertQuery", "format": "CSV"}, "ours"),
        ({**insert("ours"), "select": select({**insert("another")})}, "ours"),
        (select(out_file={"type": "Literal"}), None),
        (select({"type": "Function", "name": "file"}), None),
        (select({"type": "Function", "name": "aiGenerate"}), None),
        (select({"type": "Identifier", "name": "file"}), None),
        (select({"table_function": {"type": "Function", "name": "new_one"}}), None),
        (select({"to_table_function": {"type": "Function", "name": "s3"}}), None),
        (select({"engine": {"type": "Function", "name": "NewOne"}}), None),
        (select({"value": {"field_type": "CustomType", "value": "disk(type = s3)"}}), None),
        (select(settings_ast=setting("filter")), None),
        (select(format_ast={"name": "Template"}), None),
    ],
)
def test_what_is_not_known_is_not_run(tree: dict[str, Any], data_file: str | None) -> None:
    with pytest.raises(EngineError, match="embedded server"):
        inspected(tree, {"filter"}, data_file)


def test_a_description_is_run_where_it_is_a_plain_one() -> None:
    for text in ("DESCRIBE TABLE t", "EXISTS VIEW `a b`.`c`", "SHOW CREATE TABLE a.b"):
        assert inspected_plain(text).reads
    assert inspected_plain("DESCRIBE TABLE t FORMAT Native").answer_format == "Native"
    for text in (
        "DESCRIBE TABLE t INTO OUTFILE 'x'",
        "DESCRIBE TABLE file('x')",
        "DESCRIBE TABLE (SELECT 1)",
        "EXISTS TABLE default.`/etc/passwd`",
        "DESCRIBE TABLE t FORMAT Template",
        "DESCRIBE TABLE t SETTINGS filter = '1'",
        "SHOW GRANTS",
    ):
        with pytest.raises(EngineError, match="embedded server"):
            inspected_plain(text)


def test_an_engine_that_did_not_take_its_configuration_is_not_served() -> None:
    check_grants(f"GRANT {GRANTS} ON *.* TO default\n")
    for shown in ("GRANT SOURCES ON *.* TO default\nGRANT SELECT ON *.* TO default", "", "GRANT "):
        with pytest.raises(EngineError, match="grants what it was not told to"):
            check_grants(shown)
