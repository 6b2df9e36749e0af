"""One drill from beginning to end, against `holdfast up`: a server process is killed, and every promise is kept."""

import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from holdfast.drill.run import Promise, Target, Timing, run_drill
from holdfast.settings import load_settings
from running_up import Up

TIMING = Timing(before=1.5, after=1.5, rest_max=30, purchase_max=30)


async def test_a_drill(tmp_path: Path) -> None:
    up = Up(tmp_path / "home", "--no-demo", "--workers", "2").wait_ready()
    try:
        running = up.folder.running()
        target = Target(urlsplit(up.url), load_settings(**running.settings), has_statistics=False)

        async def kill_a_server(mark: Callable[[str], None]) -> None:
            mark("a server is killed")
            os.kill(running.children[0].pid, signal.SIGKILL)
            await asyncio.sleep(0.5)
            mark("it should be back")

        record = tmp_path / "record.jsonl"
        outcome = await run_drill(target, "server-kill", kill_a_server, Promise(), 60, TIMING, record)
        assert outcome.broken == []
        found = outcome.figures
        assert found.failed_purchases == found.stale_reads == 0
        assert found.purchases > 150
        assert 0 < outcome.verdict.orders <= found.purchases + 60, "the small event's last tickets come on top"
        assert 0 < found.before.p50_ms <= found.before.p99_ms
        assert [mark.what for mark in outcome.marks] == ["a server is killed", "it should be back"]
        lines = record.read_text().splitlines()
        assert sum('"status":' in line for line in lines) >= found.requests
    finally:
        up.stop()
