"""What a running cluster leaves in its data folder, for the commands beside it and for the next start."""

import msgspec

from holdfast.cluster.layout import Layout
from holdfast.engines.data_folder import DataFolder, write_whole
from holdfast.engines.processes import Process, is_alive
from holdfast.errors import Mendable

_FILE = "cluster.json"


class MemberNote(msgspec.Struct, frozen=True):
    """One member."""

    name: str
    kind: str
    port: int | None
    process: Process | None
    restarts: int
    held_down: bool = False


class ClusterNote(msgspec.Struct, frozen=True):
    """The layout and the members."""

    port_base: int
    gateway_port: int
    services_each: int
    proxied: bool
    members: tuple[MemberNote, ...] = ()


def read_note(folder: DataFolder) -> ClusterNote | None:
    """What the running or last cluster of this folder left; None where none did."""
    try:
        return msgspec.json.decode((folder.path / _FILE).read_bytes(), type=ClusterNote)
    except (FileNotFoundError, msgspec.MsgspecError):
        return None


def write_note(folder: DataFolder, note: ClusterNote) -> None:
    """Replaces the note."""
    write_whole(folder.path / _FILE, note)


def layout_of(folder: DataFolder, note: ClusterNote) -> Layout:
    """The layout of a note."""
    return Layout(folder.path, note.port_base, note.gateway_port, note.services_each, note.proxied)


def running_note(folder: DataFolder) -> ClusterNote:
    """What the cluster that runs in this folder left. Raises Mendable where none runs."""
    note, supervisor = read_note(folder), folder.running().supervisor
    if note is None or supervisor is None or not is_alive(supervisor):
        raise Mendable(f"No `holdfast cluster` runs on {folder.path}: start it, or name its folder with --data.")
    return note
