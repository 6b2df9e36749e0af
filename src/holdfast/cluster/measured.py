"""A cluster that `holdfast bench --cluster` measures, and what each part of it costs an order."""

from collections import defaultdict
from pathlib import Path

from holdfast.bench.house import House
from holdfast.cluster.layout import Layout
from holdfast.cluster.note import MemberNote, layout_of, read_note
from holdfast.cluster.parts.services import WORKERS
from holdfast.engines.data_folder import DataFolder, Shape
from holdfast.engines.processes import Process, running_in

SERVICES_DEFAULT = 2

_POSTGRES = "postgres"


class ClusterHouse(House):
    """`holdfast cluster`."""

    command = "cluster"

    def __init__(self, data: Path, services: int | None) -> None:
        self._services = services or SERVICES_DEFAULT
        super().__init__(DataFolder(data, Shape.CLUSTER), "--services", str(self._services))

    @property
    def workers(self) -> int:
        """How many orders services."""
        return self._services

    def processes(self) -> dict[str, list[Process]]:
        """By kind of member; workers by what they work at, and PostgreSQL's nodes apart, their Patronis beside them."""
        layout, members = self._members()
        found: defaultdict[str, list[Process]] = defaultdict(list)
        for member in members:
            if member.kind == _POSTGRES:
                found[member.name] += running_in(layout.folder(member.name) / "data", _POSTGRES)
            if member.process is not None:
                found[_part(member)].append(member.process)
        return dict(found)

    def crew(self) -> list[Process]:
        """The members' own processes."""
        return [member.process for member in self._members()[1] if member.process is not None]

    def _members(self) -> tuple[Layout, tuple[MemberNote, ...]]:
        note = read_note(self.folder)
        assert note is not None, "a cluster that has come up has noted its members"
        return layout_of(self.folder, note), note.members


def _part(member: MemberNote) -> str:
    if member.kind == _POSTGRES:
        return "patroni"
    return WORKERS[member.name] if member.kind == "worker" else member.kind
