"""All cases that were asked for, one after the other, each in the house that it needs."""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import msgspec

from holdfast.bench.cases import Case
from holdfast.bench.client.load import LoadClient
from holdfast.bench.figures import Figure, machine
from holdfast.bench.house import Build
from holdfast.bench.trial import Ground, Options, Say, Trial, opened
from holdfast.errors import Mendable


class Places(NamedTuple):
    """Where things are kept."""

    data: Path
    """A folder for data folders: the one with the orders of the past, and the one without."""
    client: Path
    """A folder for the load client and its logs; what a case leaves there is deleted after it."""
    out: Path
    """Where the report goes."""


class Report:
    """The figures so far. They are written down as soon as they are there."""

    def __init__(self, file: Path, data: Path) -> None:
        self.file = file
        self.figures: list[Figure] = []
        self._machine = machine(data)

    def add(self, figures: Sequence[Figure]) -> None:
        """Takes in the figures of a case."""
        self.figures += figures
        unfinished = self.file.with_name(f"{self.file.name}.new")
        unfinished.write_text(json.dumps(self.as_json(), indent=1) + "\n", "utf-8")
        unfinished.replace(self.file)

    def as_json(self) -> dict[str, object]:
        """The whole report as one object."""
        return {"machine": self._machine, "cases": msgspec.to_builtins(self.figures)}

    @property
    def is_sound(self) -> bool:
        """Whether no figure is void."""
        return not any(figure.void for figure in self.figures)


def choose(cases: Sequence[Case], names: Sequence[str]) -> list[Case]:
    """The cases of these names, or the standard ones where there is none. A name stands for the cases whose names go
    on from it, if there is none of exactly that name: `growth` for three. Raises Mendable for an unknown one."""
    if not names:
        return [case for case in cases if case.is_standard]
    chosen: list[Case] = []
    for name in names:
        found = [case for case in cases if case.name == name] or [
            case for case in cases if case.name.startswith(f"{name}-")
        ]
        if not found:
            raise Mendable(f"There is no case {name!r}: give some of {', '.join(case.name for case in cases)}.")
        chosen += found
    # In their own order: the orders of the past can only grow.
    return [case for case in cases if case in chosen]


def run_bench(
    cases: Sequence[Case],
    options: Options,
    workers: int | None,
    places: Places,
    say: Say,
    tell: Callable[[Figure], None],
    build: Build,
) -> Report:
    """Runs the cases, each in a house of the kind that `build` makes; each figure is told when it was audited. Raises
    Mendable where something cannot run."""
    client = LoadClient(places.client)
    report = Report(places.out / "bench.json", places.data)
    number = 0
    for (is_full, many), together in groupby(cases, lambda case: (case.is_full, case.workers or workers)):
        with _ground(build, places, client, is_full, many, say) as ground:
            for case in together:
                number += 1
                say(f"[{number}/{len(cases)}] {case.name}: {case.what}")
                trial = Trial(ground, options, say)
                case.run(trial, case.name)
                trial.audit()
                report.add(trial.figures)
                for figure in trial.figures:
                    tell(figure)
                _forget(places.client)
    return report


@contextmanager
def _ground(
    build: Build, places: Places, client: LoadClient, is_full: bool, workers: int | None, say: Say
) -> Iterator[Ground]:
    data = places.data / ("full" if is_full else "empty")
    house = build(data, workers)
    say(f"starting `holdfast {house.command}` on {data}")
    with house, opened(house, client, places.client) as ground:
        yield ground


def _forget(folder: Path) -> None:
    """Deletes logs and tokens of the case that is over: they are many."""
    for file in folder.rglob("*"):
        if file.is_file() and not os.access(file, os.X_OK):
            file.unlink()
