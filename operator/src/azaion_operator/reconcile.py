"""One reconcile per key: observe, plan, apply, publish. Safe to run twice, and it never asks which event woke it."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import Callable
from datetime import datetime
from time import monotonic

import msgspec

from azaion_api.names import Kind
from azaion_api.resources import ModelLine, TrainingRun
from azaion_operator.attempts import ending, is_last
from azaion_operator.cache import Cache, Key
from azaion_operator.cluster import Cluster
from azaion_operator.device_queue import DeviceQueue, turn_of
from azaion_operator.errors import AlreadyExistsError, InvalidError, NotFoundError, RefusedError
from azaion_operator.events import EventWriter, news
from azaion_operator.metrics import Metrics
from azaion_operator.objects import (
    CONFIG_MAPS,
    INGESTS,
    JOBS,
    LINES,
    ROLE_BINDINGS,
    ROLES,
    RUNS,
    TYPES,
    Broken,
    ObjectMeta,
    ResourceType,
)
from azaion_operator.observe import Observer
from azaion_operator.plan_ingest import plan_ingest
from azaion_operator.plan_line import plan_line
from azaion_operator.plan_run import RunPlan, plan_run
from azaion_operator.publish import Publisher
from azaion_operator.specs.identity import Child, identity, report_map
from azaion_operator.texts import sentence
from azaion_operator.view import RunView

log = logging.getLogger(__name__)

#: How soon something in the way is looked at again when no event tells.
_TROUBLE_RETRY_S = 10.0
#: What a Job does not wait for, in this order. A pod cannot be made without its ServiceAccount, but starts seconds
#: before it first reports and needs its rights, which the API server takes its time for: it looks whether the operator
#: may give them. The Role goes before the RoleBinding, which is refused to whoever may not give what the Role gives.
_AFTER_THE_JOB = (CONFIG_MAPS, LINES, ROLES, ROLE_BINDINGS)


@dataclasses.dataclass(frozen=True)
class Trouble:
    """Something is in the way of a child."""

    #: One sentence for people.
    message: str
    #: It is a Job, and the API server finds what it says invalid: trying again changes nothing.
    invalid: bool = False


def _refusal(child: Child, error: RefusedError) -> Trouble:
    """What the API server said about a child."""
    type_, manifest = child
    text = sentence(f"the API server refuses {type_.kind} {manifest['metadata']['name']}: {error}")
    return Trouble(text, invalid=type_ == JOBS and isinstance(error, InvalidError))


class Reconciler:
    """Brings what is closer to what is wanted, one resource at a time."""

    def __init__(
        self,
        cluster: Cluster,
        cache: Cache,
        observer: Observer,
        device: DeviceQueue,
        publisher: Publisher,
        events: EventWriter,
        metrics: Metrics,
        clock: Callable[[], datetime],
    ) -> None:
        self._cluster = cluster
        self._cache = cache
        self._observer = observer
        self._device = device
        self._publisher = publisher
        self._events = events
        self._metrics = metrics
        self._clock = clock
        #: UID by name of the runs whose pods are known to have their rights: an operator that was killed may have made
        #: the Job and not the RoleBinding.
        self._with_rights: dict[str, str] = {}

    async def reconcile(self, key: Key) -> float | None:
        """Look at one resource; the seconds after which to look again, if there are any."""
        began = monotonic()
        again_in_s = await {
            Kind.TRAINING_RUN: self._run,
            Kind.ANNOTATION_INGEST: self._ingest,
            Kind.MODEL_LINE: self._line,
        }[key.kind](key)
        self._metrics.reconciled(key.kind, monotonic() - began)
        return again_in_s

    async def _run(self, key: Key) -> float | None:
        queue = self._device.look(key.name)
        run = self._cache.runs.get(key.name)
        if run is None:
            self._cache.forget_gone_pods(key)
            self._with_rights.pop(key.name, None)
            return None
        if isinstance(run, Broken):
            await self._broken(RUNS, run)
            return None
        view = await self._with_last_reports(self._observer.run(run, turn_of(queue, key.name)))
        plan = plan_run(view, self._clock())
        if not plan.needs_device:
            return await self._carry_out(view, plan)
        async with self._device.held():
            view = self._observer.run(run, turn_of(self._device.look(), key.name, confirmed=True))
            return await self._carry_out(view, plan_run(view, self._clock()), at_device=True)

    async def _carry_out(self, view: RunView, plan: RunPlan, *, at_device: bool = False) -> float | None:
        run = view.run
        if plan.remove:
            await self._cluster.delete(RUNS, run.metadata.name, run.metadata.uid)
            return None
        for job in plan.stop:
            await self._cluster.delete(JOBS, job.metadata.name, job.metadata.uid, children_first=True)
        children = (*self._doubtful_rights(view), *plan.create)
        if at_device:
            run, trouble = await self._start(run, plan, children)
        else:
            trouble = await self._create(children, run.metadata.uid)
        if not trouble and any(type_ == ROLE_BINDINGS for type_, _ in children):
            self._with_rights[run.metadata.name] = run.metadata.uid
        if trouble and trouble.invalid:
            # Nothing of the Job but what the spec says can be at fault, and that cannot change any more.
            refused = dataclasses.replace(view, run=run, refused=trouble.message)
            plan, trouble = plan_run(refused, self._clock()), None
        elif trouble:
            plan = dataclasses.replace(plan, status=msgspec.structs.replace(plan.status, message=trouble.message))
        await self._publish_run(run, plan)
        still_open = {attempt.pod_uid for attempt in plan.status.attempts if attempt.ended is None}
        self._cache.forget_gone_pods(Key(Kind.TRAINING_RUN, run.metadata.name), but=still_open)
        return _TROUBLE_RETRY_S if trouble else plan.again_in_s

    async def _start(
        self, run: TrainingRun, plan: RunPlan, children: tuple[Child, ...]
    ) -> tuple[TrainingRun, Trouble | None]:
        """Write what is about to use the device, make it, and only then tell people: the Job waits for no Event."""
        written = asyncio.ensure_future(self._publisher.publish(run, plan.status))
        try:
            trouble = await self._create(children, run.metadata.uid, written)
        finally:
            if written.done() and not written.cancelled() and written.exception() is None:
                self._tell(run, written.result())
        return written.result(), trouble

    async def _publish_run(self, run: TrainingRun, plan: RunPlan) -> None:
        """Publish the plan's status and tell people what is new in it."""
        self._tell(run, await self._publisher.publish(run, plan.status))

    def _tell(self, run: TrainingRun, stored: TrainingRun) -> None:
        if stored is run:
            return
        before, after = run.status, stored.status
        self._metrics.published(before, after)
        if before.message != after.message:
            log.info("%s", after.message, extra={"context": {"run": run.metadata.name, "phase": after.phase}})
        for item in news(before, after):
            self._events.post(run, item, self._clock())

    async def _with_last_reports(self, view: RunView) -> RunView:
        """A pod's end may be seen before its last report: then the report is read past the cache."""
        now = self._clock()
        recorded = {a.pod_uid for a in view.run.status.attempts if a.ended is not None}
        for pod in view.pods:
            unrecorded = pod.metadata.uid not in recorded and ending(pod, now) is not None
            if unrecorded and not is_last(view.reports.get(pod.metadata.uid)):
                return await self._read_reports(view)
        return view

    async def _read_reports(self, view: RunView) -> RunView:
        name = report_map(view.run)[1]["metadata"]["name"]
        try:
            self._cache.observe(CONFIG_MAPS, await self._cluster.get(CONFIG_MAPS, name))
        except NotFoundError:
            return view
        return self._observer.run(view.run, view.turn)

    async def _ingest(self, key: Key) -> float | None:
        ingest = self._cache.ingests.get(key.name)
        if ingest is None:
            return None
        if isinstance(ingest, Broken):
            await self._broken(INGESTS, ingest)
            return None
        plan = plan_ingest(self._observer.ingest(ingest), self._clock())
        status = plan.status
        trouble = await self._create(plan.create, ingest.metadata.uid)
        if plan.apply is not None and not trouble:
            trouble = await self._apply(plan.apply)
        if trouble:
            status = msgspec.structs.replace(status, message=trouble.message)
        await self._publisher.publish(ingest, status)
        if ingest.status.message != status.message:
            log.info("%s", status.message, extra={"context": {"ingest": key.name, "phase": status.phase}})
        return _TROUBLE_RETRY_S if trouble else None

    async def _line(self, key: Key) -> float | None:
        line = self._cache.lines.get(key.name)
        if isinstance(line, Broken):
            await self._broken(LINES, line)
        elif isinstance(line, ModelLine):
            return await self._carry_out_line(line)
        return None

    async def _carry_out_line(self, line: ModelLine) -> float | None:
        plan = plan_line(self._observer.line(line), self._clock())
        # Written before anything is made: an operator that is killed in between finds what it was about to do.
        await self._publisher.publish(line, plan.status)
        if line.status.message != plan.status.message:
            log.info("%s", plan.status.message, extra={"context": {"line": line.metadata.name}})
        trouble = await self._create(plan.create, line.metadata.uid)
        if trouble:
            log.warning("%s", trouble, extra={"context": {"line": line.metadata.name}})
            return _TROUBLE_RETRY_S
        return plan.again_in_s

    async def _broken(self, type_: ResourceType, resource: Broken) -> None:
        """An object this operator cannot read: said once, and looked at again when it changes."""
        context = {"context": {"kind": type_.kind, "name": resource.metadata.name}}
        try:
            if await self._publisher.publish_broken(type_, resource):
                log.warning("the stored object cannot be read: %s", resource.problem, extra=context)
        except RefusedError as error:
            log.warning("%s; and its status cannot be written: %s", resource.problem, error, extra=context)

    async def _create(
        self, children: tuple[Child, ...], owner_uid: str, written: asyncio.Future[TrainingRun] | None = None
    ) -> Trouble | None:
        """Make the children that are not there; what is in the way, if anything.

        No Job is made at the device before the run's status is written: an operator that is killed in between finds it
        there, and one that slept through the end of its Lease is refused, as the run has changed since it looked.
        """
        in_turn = (JOBS, *_AFTER_THE_JOB)
        beside = self._create_all([child for child in children if child[0] not in in_turn], owner_uid)
        trouble = await beside if written is None else (await asyncio.gather(beside, written))[0]
        for type_ in in_turn:
            if trouble:
                break
            trouble = await self._create_all([child for child in children if child[0] == type_], owner_uid)
        return trouble

    async def _create_all(self, children: list[Child], owner_uid: str) -> Trouble | None:
        found = await asyncio.gather(*(self._create_one(child, owner_uid) for child in children))
        return next((trouble for trouble in found if trouble), None)

    def _doubtful_rights(self, view: RunView) -> tuple[Child, ...]:
        """What the pods at work may lack, as somebody before us made them."""
        run = view.run.metadata
        if self._with_rights.get(run.name) == run.uid or not any(job.live for job in view.jobs):
            return ()
        return identity(view.run)

    async def _create_one(self, child: Child, owner_uid: str) -> Trouble | None:
        type_, manifest = child
        name = manifest["metadata"]["name"]
        try:
            made = await self._cluster.create(type_, manifest)
        except AlreadyExistsError:
            made = await self._cluster.get(type_, name)
            if type_ not in (LINES, RUNS) and not msgspec.convert(made["metadata"], ObjectMeta).owned_by(owner_uid):
                return Trouble(f"waits until {type_.kind} {name}, which belongs to something else, is gone")
        except RefusedError as error:
            return _refusal(child, error)
        if type_ in TYPES:
            self._cache.observe(type_, made)
        return None

    async def _apply(self, child: Child) -> Trouble | None:
        type_, manifest = child
        try:
            self._cache.observe(type_, await self._cluster.apply(type_, manifest))
        except RefusedError as error:
            return _refusal(child, error)
        return None
