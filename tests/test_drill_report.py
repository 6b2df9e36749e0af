"""What `holdfast drill` says: which drills there are, and the table of what came of them."""

import json
from pathlib import Path

import pytest

from holdfast.drill.audit.judge import COUNTERS, Verdict
from holdfast.drill.buyers.figures import Figures, Waiting
from holdfast.drill.buyers.record import Mark
from holdfast.drill.drills import DRILLS, choose
from holdfast.drill.report import COLUMNS, as_json, in_a_line, markdown, rows
from holdfast.drill.run import Outcome
from holdfast.errors import Mendable
from running_up import command

WAITING = Waiting(100, 10.0, 20.0)
KINDS = ("auth", "tickets", "orders", "primary", "standby", "gate-master", "gate", "broker", "gateway")


def outcome(drill: str, *, interruption: float = 0.1, lost: int = 0, broken: list[str] | None = None) -> Outcome:
    """What came of a drill."""
    figures = Figures(
        purchases=100, requests=250, failed_attempts=7, failed_purchases=1, failed_errands=0, stale_reads=0,
        interruption_seconds=interruption, resumed_seconds=0.1, disturbed_seconds=0.2, slow_purchases=0,
        statuses={}, failures={}, before=WAITING, during=WAITING, after=WAITING,
    )  # fmt: skip
    verdict = Verdict(lost_acks=lost)
    return Outcome(
        drill=drill, rate=300, figures=figures, verdict=verdict, rest_seconds=1.5, waited_for="",
        marks=[Mark(1.0, "kill -9")], broken=broken or [],
    )  # fmt: skip


def test_the_drills_have_names_of_their_own_and_cover_every_kind() -> None:
    names = [drill.name for drill in DRILLS]
    assert len(set(names)) == len(names)
    for kind in KINDS:
        assert {f"{kind}-kill", f"{kind}-freeze", f"{kind}-cut"} <= set(names)
    for drill in DRILLS:
        assert drill.short_seconds <= drill.seconds


def test_a_drill_that_there_is_not() -> None:
    assert [drill.name for drill in choose(["gate-kill", "steady"])] == ["gate-kill", "steady"]
    with pytest.raises(Mendable, match="no drill volcano"):
        choose(["volcano"])


def test_several_runs_are_one_row_with_the_worst() -> None:
    found = rows([outcome("a", interruption=0.5, lost=1), outcome("b"), outcome("a", interruption=2, broken=["x"])])
    assert [(row.drill, row.runs, row.is_kept) for row in found] == [("a", 2, False), ("b", 1, True)]
    cells = dict(zip(COLUMNS, found[0].cells, strict=True))
    assert (cells["requests"], cells["interruption s"], cells["lost acks"]) == ("500", "2.00", "1")
    assert cells["p99 ms"] == "20 / 20 / 20"


def test_the_markdown_has_a_cell_for_every_column() -> None:
    lines = markdown([outcome("a"), outcome("b")])
    assert {line.count("|") for line in lines} == {len(COLUMNS) + 1}
    assert len(lines) == 4


def test_the_json_says_whether_all_was_kept() -> None:
    assert as_json([outcome("a")])["kept"] is True
    broken = as_json([outcome("a"), outcome("b", broken=["one failed purchase"])])
    assert broken["kept"] is False
    assert json.loads(json.dumps(broken))["drills"][1]["broken"] == ["one failed purchase"]


def test_a_line_names_what_is_not_zero() -> None:
    assert "2 lost acks" in in_a_line(outcome("a", lost=2))
    assert "nothing lost" in in_a_line(outcome("a"))
    assert set(COUNTERS) <= set(Verdict.__struct_fields__)


def test_the_command_lists_them_and_refuses_what_it_does_not_know(tmp_path: Path) -> None:
    listed = command("drill", "--list", home=tmp_path / "home")
    assert listed.returncode == 0, listed.stderr
    assert [line.split()[0] for line in listed.stdout.splitlines()] == [drill.name for drill in DRILLS]
    refused = command("drill", "volcano", home=tmp_path / "home")
    assert (refused.returncode, "no drill volcano" in refused.stderr) == (2, True)
