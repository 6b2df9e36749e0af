"""Every drill in its short form, one after another on one cluster; `make cluster-test` runs the full forms."""

import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import pytest_asyncio

from holdfast.cluster.programs import check_programs
from holdfast.drill.drills import DRILLS, Drill
from holdfast.drill.rounds import Rounds, open_site, run_one
from holdfast.drill.site import Site
from holdfast.errors import Mendable

RATE = 100
"""A third of what the full forms have: what else the machine does meanwhile is not known here."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.alone,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(300),
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def site(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    """One cluster for all of them."""
    try:
        check_programs()
    except Mendable as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))
    async with AsyncExitStack() as stack:
        environment = stack.enter_context(pytest.MonkeyPatch.context())
        # What differs from PostgreSQL for three rounds is mended: the rounds are most of the time until rest.
        environment.setenv("HOLDFAST_RECONCILE_SECONDS", "1")
        yield await open_site(stack, tmp_path_factory.mktemp("cluster") / "data", lambda line: None)


@pytest.mark.parametrize("drill", DRILLS, ids=lambda drill: drill.name)
async def test_every_promise_is_kept(site: Site, drill: Drill, tmp_path: Path) -> None:
    outcome = await run_one(site, drill, Rounds([drill], 1, RATE, None, is_short=True), tmp_path / "record.jsonl")
    assert outcome.broken == [], outcome
