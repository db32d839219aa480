"""The operator as a whole: caches, watches, workers, Lease and health, put together and taken apart."""

from __future__ import annotations

import asyncio
import itertools
import logging
import signal
from collections.abc import Coroutine
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

from azaion_api.machine import Machine, boot_id
from azaion_api.names import Kind
from azaion_api.training_run import GpuGuard
from azaion_operator import edge, health
from azaion_operator.cache import Cache, Key
from azaion_operator.cluster import Cluster
from azaion_operator.device_queue import DeviceQueue
from azaion_operator.dirty import DirtyKeys
from azaion_operator.errors import ClusterError
from azaion_operator.events import EventWriter
from azaion_operator.gpu import GpuWatch
from azaion_operator.health import Health
from azaion_operator.lease import LeaseKeeper
from azaion_operator.metrics import CONTENT_TYPE, Metrics
from azaion_operator.objects import LEASES
from azaion_operator.observe import Observer
from azaion_operator.publish import Publisher
from azaion_operator.reconcile import Reconciler
from azaion_operator.settings import Settings
from azaion_operator.status_page import server as status_server
from azaion_operator.status_page.server import StatusPage
from azaion_operator.status_page.view import PageView, page_view

log = logging.getLogger(__name__)

WORKERS = 8
RESYNC_EVERY_S = 300.0
_RESYNC_RETRY_S = 2.0
#: What a line's runs do comes in bursts, and none of them waits for the line.
_LINE_PAUSE_S = 0.1
#: What kopf gets for closing its watches; the Lease is given up before, so nobody waits for this but the kubelet.
_WATCHES_END_S = 2.0
#: How long a LIST of kopf's may take to arrive as events.
_LIST_SETTLES_S = 2.0


class Service:
    """One operator process."""

    def __init__(self, settings: Settings, cluster: Cluster) -> None:
        self._settings = settings
        self._cluster = cluster
        self._stop = asyncio.Event()
        self._synced = asyncio.Event()
        self._relisted = asyncio.Event()
        self._dirty = DirtyKeys()
        self._cache = Cache(self._mark)
        self._lease = LeaseKeeper(cluster, settings.pod_uid)
        self._health = Health()
        self._metrics = Metrics()
        self._events = EventWriter(cluster, settings.pod_name, self._dirty.quiet)
        self._gpus = GpuWatch(settings.gpu_exporter_url)
        machine = Machine(settings.node_name, boot_id()) if settings.node_name else None
        observer = Observer(self._cache, settings.pods, self._gpu_celsius, machine)
        self._device = DeviceQueue(
            cluster,
            self._cache,
            observer.entries,
            self._dirty.mark,
            is_cool=self._gpu_is_cool,
            term=lambda: self._lease.term,
        )
        self._reconciler = Reconciler(
            cluster,
            self._cache,
            observer,
            self._device,
            Publisher(cluster, self._cache),
            self._events,
            self._metrics,
            lambda: datetime.now(UTC),
        )
        self._metrics.watch_gauges(
            queue_length=lambda: len(self._device),
            watch_age_s=self._health.watch_age_s,
            leads=lambda: self._lease.held,
        )

    async def run(self) -> None:
        """Work until SIGTERM or SIGINT; one that is killed instead loses nothing but its Lease's last seconds."""
        self._listen_to_signals()
        server = await health.serve(
            self._settings.http_port,
            alive=lambda: self._health.alive(self._lease.renewals, self._dirty.stuck_for_s(), self._lease.held),
            ready=lambda: self._health.ready(self._lease.held, self._lease.holder),
            metrics=lambda: (self._metrics.text(), CONTENT_TYPE),
        )
        servers = [server]
        if self._settings.status_port is not None:
            servers.append(await status_server.serve(self._settings.status_port, StatusPage(self._page)))
        # All tasks of ours are made before kopf starts: in the end it cancels every task made after.
        tasks = {
            self._task("lease", self._lease.run()),
            self._task("events", self._events.run()),
            self._task("resync", self._resync_for_ever()),
            self._task("gpus", self._gpus.run()),
            self._task("device", self._device.look_ahead()),
            *(
                self._task(f"worker-{n}", self._dirty.work(self._reconciler.reconcile, self._may_act))
                for n in range(WORKERS)
            ),
        }
        watches = self._task("watches", self._watch())
        stopping = self._task("stop", self._stop.wait())
        try:
            done, _ = await asyncio.wait({*tasks, watches, stopping}, return_when=asyncio.FIRST_COMPLETED)
            for task in done - {stopping}:
                task.result()
        finally:
            self._stop.set()
            await _end(tasks | {stopping})
            await self._lease.release()
            for server in servers:
                await server.cleanup()
            await asyncio.wait({watches}, timeout=_WATCHES_END_S)
            await _end({watches})
            await self._cluster.close()
            log.info("stopped")

    def _mark(self, key: Key) -> None:
        """Have it looked at, a line a moment later."""
        if key.kind is Kind.MODEL_LINE:
            self._dirty.mark_in(key, _LINE_PAUSE_S)
        else:
            self._dirty.mark(key)

    def _page(self) -> PageView:
        base = PageView(
            namespace=self._settings.namespace,
            version=version("azaion-operator"),
            now=datetime.now(UTC),
            synced=self._health.synced,
        )
        return page_view(self._cache, self._device.look(), base, self._gpus.readings)

    def _gpu_celsius(self) -> float | None:
        """Of the hottest GPU; None where nobody reads it."""
        found = (reading.temperature_c for reading in self._gpus.readings)
        return max((celsius for celsius in found if celsius is not None), default=None)

    def _gpu_is_cool(self) -> bool | None:
        """Whether whoever is next may use the GPU; None where nobody reads its temperature."""
        celsius = self._gpu_celsius()
        return None if celsius is None else celsius < GpuGuard().resume_below_celsius

    @staticmethod
    def _task(name: str, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        return asyncio.create_task(work, name=name)

    def _listen_to_signals(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, self._stop.set)

    async def _may_act(self) -> None:
        """Return when the caches are filled and the Lease is held.

        A reconcile that saw runs and not yet their pods would take those for lost.
        """
        await self._synced.wait()
        await self._lease.until_held()

    async def _watch(self) -> None:
        await self._synced.wait()
        await edge.watch(
            self._settings.namespace, self._cluster.access, self._observe, self._stop, self._listen_to_signals
        )

    def _observe(self, seen: edge.Seen) -> None:
        if seen.listed:
            self._relisted.set()
        if seen.resource == LEASES:
            self._health.saw_own_lease()
        else:
            self._cache.observe(seen.resource, seen.raw, deleted=seen.deleted)

    async def _resync_for_ever(self) -> None:
        """A full LIST of everything, first to fill the cache, then to find what the watches have missed.

        kopf begins with a LIST of its own, also after a watch broke, and tells nothing of what was deleted before it.
        """
        for pause_s in itertools.chain((0.0, 5.0, 30.0), itertools.repeat(RESYNC_EVERY_S)):
            with suppress(TimeoutError):
                await asyncio.wait_for(self._relisted.wait(), pause_s)
                await asyncio.sleep(_LIST_SETTLES_S)
            self._relisted.clear()
            while not await self._resynced():
                await asyncio.sleep(_RESYNC_RETRY_S)

    async def _resynced(self) -> bool:
        try:
            await self.resync()
        except ClusterError as error:
            log.warning("a LIST failed: %s", error)
            return False
        return True

    async def resync(self) -> None:
        """Make the cache what the API server has, and look at everything unfinished again."""
        wrong = 0
        for resource, selector in edge.WATCHED.items():
            listed = await self._cluster.list(resource, selector)
            wrong += self._cache.replace(resource, listed.items, listed.resource_version)
        if self._synced.is_set() and wrong:
            log.info("a LIST showed changes of %d objects that the watches had not brought", wrong)
            self._metrics.missed(wrong)
        self._synced.set()
        self._health.synced = True
        # Who is at work goes first, then those that wait, in their order: the last of a thousand may wait a little.
        places = self._device.look().places
        runs = sorted(self._cache.unfinished_runs(), key=lambda run: places.get(run.metadata.name, 0))
        self._dirty.mark_first(
            (
                *(Key(Kind.ANNOTATION_INGEST, ingest.metadata.name) for ingest in self._cache.ingests),
                *(Key(Kind.MODEL_LINE, line.metadata.name) for line in self._cache.lines),
                *(Key(Kind.TRAINING_RUN, run.metadata.name) for run in runs),
            )
        )


async def _end(tasks: set[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks, timeout=5.0)


async def run(settings: Settings) -> None:
    """Run the operator until it is told to stop. Raises a ClusterError when there is no access to a cluster."""
    cluster = await Cluster.connect(settings.namespace, in_cluster=settings.in_cluster)
    await Service(settings, cluster).run()
