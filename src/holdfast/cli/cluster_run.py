"""One run of `holdfast cluster`, from the data folder to the last good-bye."""

import asyncio
import logging
from collections.abc import Mapping
from pathlib import Path

import structlog

from holdfast import __version__, clock
from holdfast.cli.checklist import Checklist
from holdfast.cli.cluster_view import ClusterView
from holdfast.cli.log_watch import LogWatch
from holdfast.cli.output import report
from holdfast.cli.stop_signals import stop_signals
from holdfast.cluster.cluster import Cluster
from holdfast.cluster.note import read_note
from holdfast.cluster.picture import Observer
from holdfast.cluster.wishes import Wishes
from holdfast.engines.data_folder import DataFolder, Shape

_LOOK_SECONDS = 2.0


class ClusterRun:
    """Starts a cluster, shows it, and stops it when it is told to."""

    def __init__(self, data: Path, wishes: Wishes, *, demo: bool, as_json: bool) -> None:
        self._began = clock.monotonic_seconds()
        self._list = Checklist(to_error=as_json)
        self._demo = demo
        self._as_json = as_json
        self._view: ClusterView | None = None
        self._folder = DataFolder(data, Shape.CLUSTER)
        self._cluster = Cluster(self._folder, wishes, self._say, self._list.tick)

    async def run(self) -> None:
        """Returns when it was told to stop and everything has ended. Raises Mendable, with nothing left behind."""
        # Of what happens here the table tells.
        structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
        stop, hurry = stop_signals()
        logs = LogWatch(self._folder.logs, self._say, quiet=self._others())
        logs.start()
        tasks = [asyncio.create_task(work) for work in (logs.run(), stop.wait(), self._live())]
        _, stopped, living = tasks
        try:
            await asyncio.wait({stopped, living}, return_when=asyncio.FIRST_COMPLETED)
            if living.done():
                living.result()
            self._say("Stopping (Ctrl-C again hurries)")
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._cluster.stop(hurry)
        self._list.say("Stopped")

    async def _live(self) -> None:
        self._list.say(f"Holdfast {__version__}, a cluster in {self._folder.path}", "bold")
        await self._cluster.start()
        link = await self._prepare()
        seconds = clock.monotonic_seconds() - self._began
        self._list.say(f"ready in {seconds:.1f} s", "bold green")
        self._welcome(seconds, link)
        await self._show()

    async def _show(self) -> None:
        cluster = self._cluster
        gate_password = self._folder.passwords("gate")["gate"]
        observer = Observer(cluster.layout, cluster.logins.owner_url, gate_password)
        self._view = None if self._as_json else ClusterView()
        try:
            while True:
                note = read_note(self._folder)
                if self._view is not None and note is not None:
                    self._view.show(await observer.look(note))
                await asyncio.sleep(_LOOK_SECONDS)
        finally:
            if self._view is not None:
                self._view.close()
                self._view = None
            await observer.close()

    async def _prepare(self) -> str | None:
        """What `up` makes too: a demo the first time; the link for the first administrator as long as there is none."""
        from holdfast.first_run import new_setup_link, prepare_first_run

        running = self._cluster.running
        if not running.prepared:
            made = await prepare_first_run(self._cluster.settings, self._demo)
            if made.demo_password is not None:
                secrets = self._folder.secrets()
                secrets.demo_email, secrets.demo_password = made.demo_email, made.demo_password
                self._folder.keep(secrets)
            running.prepared = self._demo
            self._folder.note(running)
        return await new_setup_link(self._cluster.settings)

    def _welcome(self, seconds: float, link: str | None) -> None:
        secrets, url = self._folder.secrets(), self._cluster.url
        demo = self._demo and secrets.demo_password
        answer: Mapping[str, object] = {
            "ready": True,
            "seconds": round(seconds, 3),
            "url": url,
            "data": str(self._folder.path),
            "demo_email": secrets.demo_email if demo else None,
            "demo_password": secrets.demo_password if demo else None,
            "setup_link": link,
        }
        if self._as_json:
            report(answer, (), as_json=True)
            return
        self._list.say(f"\n  Events          {url}/events")
        if demo:
            self._list.say(f"  Demo buyer      {secrets.demo_email}  password  {secrets.demo_password}")
        if link:
            self._list.say(f"  Administrator   {link}")
        self._list.say("\nCtrl-C stops everything.")

    def _others(self) -> frozenset[str]:
        """The logs of programs that are not ours: they are bounded, and not searched for warnings."""
        return frozenset(
            one.name
            for one in self._cluster.members.values()
            if one.kind in ("etcd", "postgres", "gate", "kafka", "gateway")
        )

    def _say(self, text: str) -> None:
        if self._view is not None:
            self._view.say(text)
        else:
            self._list.say(text, "yellow")
