"""Files as they come: how they are packed, which of a folder are data, and what is refused."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import zipfile
from pathlib import Path

import pytest
from backports import zstd

from footfall.generator.csv_replay import CsvReplay
from footfall.schemas.store_events import StoreEvent
from footfall.streams.archive import Archive
from footfall.streams.source import SourceError
from tests.archive_support import both, csv_of, read, row
from tests.generator_support import HEADER, csv_file

PACKED = {
    "shop.csv.gz": gzip.compress,
    "shop.csv.bz2": bz2.compress,
    "shop.csv.xz": lzma.compress,
    "shop.csv.zst": zstd.compress,
    "shop.csv": gzip.compress,
    "plain.csv.gz": lambda data: data,
}


def zipped(**members: bytes) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name.replace("__", "/"), data)
    return packed.getvalue()


@pytest.mark.parametrize("name", [*PACKED, "shop.csv.zip"])
def test_packed_files_are_read_by_their_contents(tmp_path: Path, name: str) -> None:
    data = csv_file([row(1), row(2)])
    if name.endswith(".zip"):
        packed = zipped(**{"shop.csv": data, "MACOSX__._shop.csv": b"\0\5\26\7"})
    else:
        packed = PACKED[name](data)
    (tmp_path / name).write_bytes(packed)
    records, letters = both(tmp_path / name)
    assert (len(records), letters) == (2, [])


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.csv.zip", zipped(a=b"", b=b""), "a.csv.zip is a zip of 2 files: unpack it first"),
        ("a.csv.zip", zipped(a=b"x" * 99)[:-30], "a.csv.zip cannot be read: "),
        ("a.csv.zst", b"\x28\xb5\x2f\xfd....", "a.csv.zst cannot be read"),
        ("a.csv", b"PAR1....", "a.csv is a Parquet file and not lines of text"),
        ("a.csv.gz", b"\x1f\x8bnot gzip", "a.csv.gz cannot be read"),
        ("a.csv", HEADER.encode("utf-16")[:-1], "a.csv cannot be read past line 0"),
        ("a.csv", b"a,b\n1,2\n", "a.csv: the first line lacks the columns event_time, "),
        ("a.csv", HEADER.replace("price", "cost").encode(), "lacks the columns price; it must be"),
        ("a.csv", f"{HEADER},price".encode(), "the first line names price twice"),
        ("a.csv", f"{HEADER},Price".encode(), "the first line names price twice"),
        ("a.csv", b"\x00\xff" * 100, "lacks the columns event_time"),
    ],
    # A zip file holds the time at which it was made, which no two processes share.
    ids=lambda value: "data" if isinstance(value, bytes) else None,
)
def test_what_is_no_such_file_is_refused_on_one_line(
    tmp_path: Path, name: str, data: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(data)
    for way in (read, CsvReplay):
        with pytest.raises(SourceError, match=message) as refusal:
            way(tmp_path / name)
        assert "\n" not in str(refusal.value)
        assert name in str(refusal.value)


def test_a_header_alone_has_no_rows_and_an_empty_file_is_told(tmp_path: Path) -> None:
    assert both(csv_of(tmp_path)) == ([], [])
    (tmp_path / "shop.csv").write_bytes(b"")
    assert read(tmp_path / "shop.csv") == ([], [])
    with pytest.raises(SourceError, match=r"shop.csv is empty"):
        CsvReplay(tmp_path / "shop.csv")


def test_a_file_that_is_cut_or_changed_is_told_with_its_line(tmp_path: Path) -> None:
    whole = gzip.compress(b"".join(json.dumps({"n": n}).encode() + b"\n" for n in range(50_000)))
    for name, data in {
        "cut.jsonl.gz": whole[: len(whole) // 2],
        "changed.jsonl.gz": whole[:5_000] + bytes(200) + whole[5_200:],
    }.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(SourceError, match=rf"{name} cannot be read past line \d+: "):
            read(tmp_path / name)


def archive_of(folder: Path, *names: str) -> None:
    for number, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(csv_file([row(number)]))


def test_names_that_other_programs_keep_for_themselves_are_no_data(tmp_path: Path) -> None:
    hidden = ("._a.csv", ".a.csv", "_a.csv", "_temporary/0/b.csv", ".x/c.csv", "in/._d.csv")
    archive_of(tmp_path / "_archive", "a.csv", "in/b.csv", "_SUCCESS", *hidden)
    archive = Archive(tmp_path / "_archive", "t", StoreEvent)
    assert [name for name, _ in archive.files] == ["a.csv", "in/b.csv"]
    assert archive.left_out == []
    records, _ = read(tmp_path / "_archive")
    assert len(records) == 2


def test_files_of_no_known_kind_are_named(tmp_path: Path) -> None:
    archive_of(tmp_path, "a.csv", "README.md", "b.zip", "c.parquet.gz", "in/d")
    archive = Archive(tmp_path, "t", StoreEvent)
    assert [name for name, _ in archive.files] == ["a.csv"]
    assert archive.left_out == ["README.md", "b.zip", "c.parquet.gz", "in/d"]


@pytest.mark.parametrize(
    "twin", ["2019.csv.gz", "2019.CSV", "2019.csv.zip", "2019.jsonl", "2019.parquet"]
)
def test_a_file_beside_itself_is_told(tmp_path: Path, twin: str) -> None:
    archive_of(tmp_path, "in/2019.csv", f"in/{twin}", "2019.csv")
    with pytest.raises(SourceError, match="seem to be the same file twice") as told:
        read(tmp_path)
    assert twin in str(told.value)
    assert "2019.csv" in str(told.value)


def test_files_whose_names_are_no_text_are_read_each(tmp_path: Path) -> None:
    archive_of(tmp_path, *(os.fsdecode(name) for name in (b"\xff.csv", b"\xfe.csv")))
    records, letters = read(tmp_path)
    assert (len(records), letters) == (2, [])


def test_a_file_that_links_lead_to_is_read_once(tmp_path: Path) -> None:
    archive_of(tmp_path, "2019-10.csv", "2019-11.csv")
    (tmp_path / "latest.csv").symlink_to("2019-11.csv")
    (tmp_path / "in").mkdir()
    os.link(tmp_path / "2019-10.csv", tmp_path / "in" / "copy.csv")
    records, _ = read(tmp_path)
    assert len(records) == 2


def test_an_archive_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    for path, message in (
        (tmp_path, r"there is no file of \.jsonl"),
        (tmp_path / "notes.txt", r"notes.txt is none of \.jsonl"),
        (tmp_path / "none", "there is no .*none to read the archive from"),
        (Path("-"), "a pipe has no name that tells the kind"),
        (Path("/dev/null"), "a pipe has no name that tells the kind"),
    ):
        with pytest.raises(SourceError, match=message):
            Archive(path, "t", StoreEvent)


def test_rows_in_several_files_are_told_by_their_own(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name in ("b.csv", "in/a.csv"):
        (tmp_path / name).write_bytes(csv_file([row(1), "broken", row(2)]))
    records, letters = read(tmp_path)
    assert len(records) == 4
    assert [(letter.topic, letter.offset) for letter in letters] == [("b.csv", 3), ("in/a.csv", 3)]
