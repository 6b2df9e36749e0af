"""README's walk-through, pasted word for word into bash beside a running `up`: each step does what is said of it."""

import json
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from running_up import command, environment_of

README = (Path(__file__).parents[1] / "README.md").read_text("utf-8")
URL = "http://127.0.0.1:8000"
LAST_LINE = "Ctrl-C stops everything."
MARK = "--- end of the block"
WALK_SECONDS_MAX = 120

_WALK = re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
_SAMPLES = re.findall(r"```json\n(.*?)```", README, re.DOTALL)
STEPS = ("set up", "sign in", "look", "reserve", "retry", "pay", "read", "give back", "be refused")


class Up(NamedTuple):
    """A running house with its demo event."""

    home: Path
    data: Path
    said: str
    """All that it printed until it was ready."""

    @property
    def url(self) -> str:
        """Where it serves."""
        found = re.search(r"^  Events +(http\S+)/events$", self.said, re.MULTILINE)
        assert found is not None, self.said
        return found[1]


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """`up` as `make up` runs it, but on a folder and a port of its own."""
    folder = tmp_path_factory.mktemp("readme")
    home, data = folder / "home", folder / "data"
    arguments = ["up", "--data", str(data), "--port", "0", "--workers", "1"]
    with subprocess.Popen(
        [sys.executable, "-m", "holdfast.cli.main", *arguments], cwd=folder, env=environment_of(home), text=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        try:
            said = ""
            while LAST_LINE not in said:
                line = process.stdout.readline()
                assert line, f"`up` did not come up: {said}"
                said += line
            yield Up(home, data, said)
        finally:
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=60)
    assert process.returncode == 0


@pytest.fixture(scope="module")
def walks(up: Up) -> Sequence[dict[str, str]]:
    """What each step said, of two walks one after the other in one shell."""
    assert len(_WALK) == len(STEPS)
    assert _WALK[0].count(URL) == 1
    walk = "".join(f"{block}echo '{MARK}'\n" for block in _WALK).replace(URL, up.url)
    # By standard input, as a terminal would give it: line after line, and no error ends it.
    done = subprocess.run(
        ["bash", "--norc", "-s"], input=walk * 2, capture_output=True, text=True, timeout=WALK_SECONDS_MAX, check=False
    )
    assert done.stderr == ""
    said = [part.strip() for part in done.stdout.split(f"{MARK}\n")]
    assert len(said) == 2 * len(STEPS) + 1
    return [dict(zip(STEPS, said[start:], strict=False)) for start in (0, len(STEPS))]


def test_signing_in_makes_a_user_of_its_own_each_time(walks: Sequence[dict[str, str]]) -> None:
    first, second = (walk["sign in"] for walk in walks)
    assert first.startswith("usr_")
    assert second.startswith("usr_")
    assert first != second
    assert {walk["set up"] for walk in walks} == {""}


def test_the_demo_event_is_found_with_its_tiers(walks: Sequence[dict[str, str]]) -> None:
    tickets = json.loads(walks[0]["look"])
    assert [tier["capacity"] for tier in tickets["data"]] == [2_000, 3_000, 5_000]
    assert {tier["sale_state"] for tier in tickets["data"]} == {"on_sale"}


def test_reserving_answers_in_the_shape_of_the_sample(walks: Sequence[dict[str, str]]) -> None:
    (sample,) = map(json.loads, _SAMPLES)
    order = json.loads(walks[0]["reserve"])
    assert shape_of(order) == shape_of(sample)
    assert (order["status"], order["lines"][0]["quantity"]) == ("reserved", 2)
    assert order["total"] == sample["total"]
    assert order["user_id"] == walks[0]["sign in"]


def test_a_retry_gives_the_same_order(walks: Sequence[dict[str, str]]) -> None:
    for walk in walks:
        assert walk["retry"] == json.loads(walk["reserve"])["id"]
    assert walks[0]["retry"] != walks[1]["retry"]


def test_paying_confirms_and_gives_tickets(walks: Sequence[dict[str, str]]) -> None:
    order = json.loads(walks[0]["pay"])
    assert order["id"] == walks[0]["retry"]
    assert order["status"] == "confirmed"
    assert len(order["tickets"]) == 2


def test_the_order_and_the_history_are_read(walks: Sequence[dict[str, str]]) -> None:
    for walk in walks:
        status, _, history = walk["read"].partition("\n")
        page = json.loads(history)
        assert status == "confirmed"
        assert [order["id"] for order in page["data"]] == [walk["retry"]]
        assert page["next_cursor"] is None


def test_the_second_order_is_given_back_and_the_limit_refuses_a_third(walks: Sequence[dict[str, str]]) -> None:
    for walk in walks:
        assert walk["give back"] == "cancelled"
        assert walk["be refused"] == "user_limit_reached"


def test_what_was_held_is_back_on_sale(up: Up, walks: Sequence[dict[str, str]]) -> None:
    event_id = json.loads(walks[0]["look"])["event_id"]
    with urllib.request.urlopen(f"{up.url}/events/{event_id}/tickets", timeout=10) as answer:
        tier = json.load(answer)["data"][0]
    assert (tier["held"], tier["sold"], tier["available"]) == (0, 4, 1_996)


def test_every_endpoint_of_the_table_is_in_the_openapi_document(up: Up) -> None:
    with urllib.request.urlopen(f"{up.url}/openapi.json", timeout=10) as answer:
        paths: dict[str, Any] = json.load(answer)["paths"]
    known = {(method.upper(), anonymous(path)) for path, methods in paths.items() for method in methods}
    table = re.findall(r"^\| (GET|POST) \| `(/[^`]+)` \|", README, re.MULTILINE)
    assert len(table) == 8
    for method, path in table:
        assert (method, anonymous(path)) in known


def test_doctor_finds_the_house_well_afterwards(up: Up, walks: Sequence[dict[str, str]]) -> None:
    assert walks
    done = command("doctor", "--data", str(up.data), "--json", home=up.home)
    assert [check for check in json.loads(done.stdout)["checks"] if not check["ok"]] == []
    assert done.returncode == 0


def test_up_prints_what_readme_shows(up: Up) -> None:
    sample = re.search(r"It prints:\n\n```\n(.*?)```", README, re.DOTALL)
    assert sample is not None
    assert pattern_of(up.said) == pattern_of(sample[1])


def pattern_of(text: str) -> list[str]:
    """The lines without what differs from start to start: numbers, places, secrets, and how they are lined up."""
    for differing in (r"http\S+#\S+", r"in \S+$", r"demo-\w+", r"(?<=password  )\S+", r":\d+", r"\d+\.\d+", r"\s+"):
        text = "\n".join(re.sub(differing, " ", line) for line in text.splitlines())
    return text.splitlines()


def shape_of(value: object) -> object:
    """The members and types of a JSON value, in their order."""
    if isinstance(value, dict):
        return [(name, shape_of(item)) for name, item in value.items()]
    if isinstance(value, list):
        return [shape_of(item) for item in value]
    return type(value).__name__


def anonymous(path: str) -> str:
    """A path whose parameters have no names."""
    return re.sub(r"\{\w+\}", "{}", path)
