"""How a server that refuses to run as root is run by root all the same, without creating a system user."""

import os
import pwd
import shutil
import subprocess
from functools import cache

from holdfast.errors import Mendable

_INSTEAD = "run `holdfast` as an ordinary user, or give PostgreSQL by HOLDFAST_DATABASE_URL"


@cache
def unprivileged_prefix() -> tuple[str, ...]:
    """The command prefix under which PostgreSQL's programs accept to run; empty for an ordinary user.

    Root gets a user namespace in which it is an ordinary user: the files still belong to root outside, and no other
    account is involved. So does a user whose uid has no name (as in some containers), since initdb looks its own up.
    """
    if os.geteuid() != 0 and _has_a_name(os.geteuid()):
        return ()
    who = "root" if os.geteuid() == 0 else "a user without a name"
    unshare = shutil.which("unshare")
    inner = next((entry for entry in pwd.getpwall() if entry.pw_uid != 0), None)
    if unshare is None or inner is None:
        raise Mendable(f"PostgreSQL does not run as {who}, and unshare (util-linux) is missing: {_INSTEAD}.")
    prefix = (unshare, "-U", f"--map-user={inner.pw_uid}", f"--map-group={inner.pw_gid or inner.pw_uid}")
    if subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode != 0:  # noqa: S603
        raise Mendable(f"PostgreSQL does not run as {who}, and this system allows no user namespaces: {_INSTEAD}.")
    return prefix


def _has_a_name(uid: int) -> bool:
    try:
        pwd.getpwuid(uid)
    except KeyError:
        return False
    return True
