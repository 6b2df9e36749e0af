"""`holdfast bench` for real, with no opinion on how fast it is."""

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from holdfast.bench.cases import all_cases
from holdfast.bench.run import choose
from holdfast.engines.data_folder import DataFolder
from holdfast.engines.processes import running_in, send
from holdfast.errors import Mendable
from running_up import command, environment_of

# Its parts (the client, the seeding, the audit) are tested by themselves in `make test`.
pytestmark = [pytest.mark.slow, pytest.mark.alone]

KEYS = {"case", "rate", "noop", "ratio", "p50_ms", "p99_ms", "p999_ms", "cpu_us_per_order", "void"}
CASES = ["noop", "reserve", "confirm", "purchase"]


def home(tmp_path: Path) -> Path:
    """A home of one test."""
    return tmp_path / "home"


def left_behind(tmp_path: Path) -> list[Path]:
    """What stands in the temporary folder."""
    return list((tmp_path / "tmp").iterdir())


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> "tuple[Path, subprocess.CompletedProcess[str]]":
    """One short run: its folder, and how it ended."""
    folder = tmp_path_factory.mktemp("bench")
    options = ["--seconds", "0.5", "--connections", "8", "--scale", "0.1", "--json", "--out", str(folder / "out")]
    return folder, command("bench", *CASES, *options, home=home(folder))


def test_it_measures_and_no_figure_is_void(bench: "tuple[Path, subprocess.CompletedProcess[str]]") -> None:
    folder, done = bench
    assert done.stdout.count("\n") == 1, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    assert [case["case"] for case in answer["cases"]] == CASES
    for case in answer["cases"]:
        assert set(case) >= KEYS
        assert (case["void"], case.get("findings", [])) == (False, [])
        assert case["rate"] > 0
        assert case["noop"] > 0
        assert 0 < case["p50_ms"] <= case["p99_ms"] <= case["p999_ms"]
        assert set(case["cpu_by_process"]) == {"server", "worker", "postgres", "valkey", "client"}
    assert set(answer["machine"]) == {"cores", "cpu", "memory", "kernel", "python", "file_system", "fsync_ms"}
    assert answer == json.loads((folder / "out" / "bench.json").read_text())
    assert done.returncode == 0


def test_it_counts_the_answers_of_each_call(bench: "tuple[Path, subprocess.CompletedProcess[str]]") -> None:
    cases = {case["case"]: case for case in json.loads(bench[1].stdout)["cases"]}
    assert set(cases["reserve"]["statuses"]) == {"0:201"}
    assert set(cases["confirm"]["statuses"]) == {"0:200"}
    assert cases["purchase"]["statuses"]["0:201"] == cases["purchase"]["statuses"]["1:200"] > 0


def test_it_draws(bench: "tuple[Path, subprocess.CompletedProcess[str]]") -> None:
    out = bench[0] / "out"
    assert {file.name for file in out.iterdir()} == {"bench.json", "cpu.svg", "latency.svg"}
    assert "confirm" in (out / "cpu.svg").read_text()


def test_it_leaves_nothing_but_its_report(bench: "tuple[Path, subprocess.CompletedProcess[str]]") -> None:
    assert left_behind(bench[0]) == []


def begin(tmp_path: Path, *options: str) -> "subprocess.Popen[str]":
    """`bench reserve`, under way."""
    options = ("bench", "reserve", "--scale", "0.1", "--out", str(tmp_path / "out"), *options)
    return subprocess.Popen(
        [sys.executable, "-m", "holdfast.cli.main", *options],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path,
        env=environment_of(home(tmp_path)),
    )  # fmt: skip


def until_measured(process: "subprocess.Popen[str]", tmp_path: Path) -> DataFolder:
    """Waits until the run that counts has begun: the data folder that it runs on."""
    assert process.stderr is not None
    assert any(line.startswith("measuring") for line in process.stderr)
    [folder] = (tmp_path / "out").glob("running-*")
    return DataFolder(folder / "data" / "empty")


def test_ctrl_c_ends_everything(tmp_path: Path) -> None:
    process = begin(tmp_path, "--seconds", "60")
    folder = until_measured(process, tmp_path)
    assert running_in(folder.cluster, "postgres")
    process.send_signal(signal.SIGINT)
    assert "Traceback" not in process.communicate(timeout=60)[1]
    assert process.returncode != 0
    assert running_in(folder.cluster, "postgres") == []
    assert left_behind(tmp_path) == list((tmp_path / "out").iterdir()) == []


def test_control_a_server_that_dies_makes_the_figure_void(tmp_path: Path) -> None:
    process = begin(tmp_path, "--seconds", "3", "--json")
    server = until_measured(process, tmp_path).running().children[0]
    assert send(server, signal.SIGKILL)
    said, remarks = process.communicate(timeout=120)
    [case] = json.loads(said)["cases"]
    assert case["void"], remarks
    assert "a process ended and was started again while reserve ran" in case["findings"]
    assert process.returncode == 1


def test_an_unknown_case_is_refused_with_the_names(tmp_path: Path) -> None:
    done = command("bench", "reserve", "nonsense", home=home(tmp_path))
    assert "There is no case 'nonsense': give some of noop, reserve, " in done.stderr
    assert done.returncode == 2


def test_without_a_compiler_it_says_what_to_install(tmp_path: Path) -> None:
    done = command("bench", "noop", home=home(tmp_path), PATH=str(tmp_path))
    assert "install gcc" in done.stderr
    assert done.returncode == 2
    assert left_behind(tmp_path) == []


def test_the_list_names_every_case(tmp_path: Path) -> None:
    done = command("bench", "--list", home=home(tmp_path))
    assert {line.split()[0] for line in done.stdout.splitlines()} >= {"noop", "reserve-open", "history", "memory"}


def test_a_name_stands_for_its_kind_and_cases_keep_their_order() -> None:
    cases = all_cases(workers=1)
    assert [case.name for case in choose(cases, ["history", "growth", "reserve"])] == [
        "reserve", "growth-0", "growth-1m", "growth-5m", "history",
    ]  # fmt: skip
    assert "memory" not in [case.name for case in choose(cases, [])]
    assert len({case.name for case in cases}) == len(cases)
    with pytest.raises(Mendable):
        choose(cases, ["grow"])


def test_the_other_number_of_servers_is_what_up_does_not_take() -> None:
    assert {case.name for case in all_cases(workers=1) if case.workers == 2} == {"reserve-2w", "reserve-2w-256"}
    assert {case.name for case in all_cases(workers=4) if case.workers == 1} == {"reserve-1w", "reserve-1w-256"}
