"""etcd, in which Patroni keeps who the primary is. One member: on one machine three would fall together, and each would
wait for the same disk. While it is away the primary goes on, since all of Patroni's members still see each other
(failsafe_mode)."""

from base64 import b64encode
from collections.abc import Sequence

from holdfast.cluster.asking import ask
from holdfast.cluster.layout import HOST, Layout
from holdfast.cluster.member import Member, Recipe
from holdfast.engines.launch import leash
from holdfast.errors import Mendable

USER = "patroni"
_ROOT = "root"  # etcd's own name for who may do everything
_PREFIX = "/service/"  # Patroni's
_READ_AND_WRITE = 2
_SETUP_SECONDS_MAX = 10.0  # passwords are hashed slowly on purpose


def etcd_member(layout: Layout, program: str) -> Member:
    """The member."""
    client, peer = (f"http://{HOST}:{layout.port(name)}" for name in ("etcd", "etcd-peer"))
    folder = layout.folder("etcd")

    def command() -> Sequence[str]:
        return [
            *leash("TERM"), program, "--name=etcd", f"--data-dir={folder / 'data'}",
            f"--listen-client-urls={client}", f"--advertise-client-urls={client}",
            f"--listen-peer-urls={peer}", f"--initial-advertise-peer-urls={peer}", f"--initial-cluster=etcd={peer}",
            "--auto-compaction-mode=periodic", "--auto-compaction-retention=1h", "--snapshot-count=10000",
            "--max-wals=2", "--max-snapshots=2", "--logger=zap", "--log-level=error",
        ]  # fmt: skip

    async def is_ready() -> bool:
        answer = await ask(layout.port("etcd"), "/health")
        return answer.status == 200 and b'"true"' in answer.body

    recipe = Recipe("etcd", "etcd", layout.port("etcd"), folder, layout.log("etcd"), command, is_ready, program="etcd")
    return Member(recipe)


async def protect_etcd(layout: Layout, root_password: str, password: str) -> None:
    """Lets nobody in without a password: root, and Patroni, who may do what it likes below its own prefix."""
    if await _post(layout, "auth/authenticate", {"name": _ROOT, "password": root_password}):
        return
    for name, its_password in ((_ROOT, root_password), (USER, password)):
        await _post(layout, "auth/user/add", {"name": name, "password": its_password})
        await _post(layout, "auth/role/add", {"name": name})
        await _post(layout, "auth/user/grant", {"user": name, "role": name})
    everything_below = _PREFIX[:-1] + chr(ord(_PREFIX[-1]) + 1)
    permission = {"permType": _READ_AND_WRITE, "key": _encoded(_PREFIX), "range_end": _encoded(everything_below)}
    await _post(layout, "auth/role/grant", {"name": USER, "perm": permission})
    if not await _post(layout, "auth/enable", {}):
        raise Mendable(f"etcd cannot be given passwords: see {layout.log('etcd')}.")


async def _post(layout: Layout, method: str, body: object) -> bool:
    answer = await ask(layout.port("etcd"), f"/v3/{method}", body, seconds=_SETUP_SECONDS_MAX)
    return answer.status == 200


def _encoded(key: str) -> str:
    return b64encode(key.encode()).decode()


def patroni_section(layout: Layout, postgres: str, password: str) -> dict[str, object]:
    """How this node's Patroni reaches etcd."""
    return {"host": f"{HOST}:{layout.etcd_port_of(postgres)}", "username": USER, "password": password}
