"""Catalogues as CSV: as spreadsheets write them, one row for each tier, bad rows told by their lines."""

from datetime import UTC, datetime

import pytest

from catalogue_reading import HEADER, one, read
from ticket_house import CATALOGUES


def test_a_csv_with_chinese_names() -> None:
    found = read((CATALOGUES / "summer.csv").read_bytes())
    assert [(event.name, [(tier.name, tier.price_amount) for tier in event.tiers]) for event in found.candidates] == [
        ("海風之夜，夏季場", [("搖滾區", 320_000), ("看台", 160_000)]),
        ("爵士早午餐", [("爵士早午餐", 0)]),
    ]
    assert [remark.line for remark in found.refused] == [7, 8, 9]
    assert [remark.line for remark in found.notes] == [1]


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
def test_csv_as_spreadsheets_write_it(delimiter: str, encoding: str, line_end: str) -> None:
    lines = [
        ["Name", " Starts at", "Price", "CAPACITY"],
        ["音樂會", "2027-03-01T19:30", '"800.00"', "100"],
        [],
        [""] * 4,
    ]
    text = line_end.join(delimiter.join(cells) for cells in lines)
    event = one(text.encode(encoding), kind="csv")
    assert (event.name, event.tiers[0].price_amount, event.tiers[0].currency) == ("音樂會", 80_000, "TWD")


def test_a_file_has_so_many_rows() -> None:
    found = read(f"{HEADER}\n" + "E,2027-03-01,1,1\n" + "\n".join(f"E{n},2027-03-01,1,1" for n in range(100_001)))
    assert len(found.candidates) == 50_000
    assert [remark.reason for remark in found.refused] == ["after 50000 events the rest was not read"]


def test_rows_with_an_id_are_one_event() -> None:
    text = (
        "id,name,starts_at,tier,price,currency,capacity\n"
        "7,Concert,2027-03-01,A,10,EUR,5\n"
        "7,,,B,20,EUR,6\n"
        "7,Concert,2027-03-02,C,20,EUR,6\n"
        "7,,,A,20,EUR,6\n"
        "7,,,D,20,USD,6\n"
        "8,Concert,2027-03-01,A,10,EUR,5\n"
    )
    found = read(text)
    assert [(event.key, [tier.name for tier in event.tiers]) for event in found.candidates] == [
        ("id:7", ["A", "B"]),
        ("id:8", ["A"]),
    ]
    assert [remark.line for remark in found.refused] == [4, 5, 6]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (",2027-03-01,1,1", "name"),
        ("x,,1,1", "starts_at"),
        ("x,2027-03-01,,1", "price"),
        ("x,2027-03-01,1,", "capacity"),
        ("x,2027-03-01,1,-1", "capacity"),
        ("x,2027-03-01,1,999999999", "capacity"),
        ("x,2027-03-01,1,1,1", "cells"),
        ('x,2027-03-01,"1,1', "quoted"),
        ("x\0,2027-03-01,1,1", "name"),
        ("x,2027-03-01", "price"),
    ],
)
def test_a_bad_row_is_told_by_its_line(row: str, reason: str) -> None:
    found = read(f"{HEADER}\nGood,2027-03-01,1,1\n{row}\nLast,2027-03-01,1,1\n")
    assert [event.name for event in found.candidates] == ["Good", "Last"]
    assert [remark.line for remark in found.refused] == [3]
    assert reason in found.refused[0].reason


def test_a_row_in_another_encoding_is_told_by_its_line() -> None:
    found = read(f"{HEADER}\nGood,2027-03-01,1,1\n".encode() + "壞,2027-03-01,1,1\n".encode("big5"))
    assert [event.name for event in found.candidates] == ["Good"]
    assert [(remark.line, "Unicode" in remark.reason) for remark in found.refused] == [(3, True)]


def test_a_csv_zone_and_offset() -> None:
    text = f"{HEADER},time_zone,status\nA,2027-07-01T19:30,1,1,Europe/Berlin,\nB,2027-07-01T19:30Z,1,1,Europe/Berlin,\n"
    berlin, utc = read(text).candidates
    assert berlin.starts_at == datetime(2027, 7, 1, 17, 30, tzinfo=UTC)
    assert utc.starts_at == datetime(2027, 7, 1, 19, 30, tzinfo=UTC)
    assert [event.fields.time_zone for event in (berlin, utc) if event.fields] == ["Europe/Berlin", "Europe/Berlin"]
