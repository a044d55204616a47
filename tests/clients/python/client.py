"""A correct client of the registry, over stubs generated from `proto/` and nothing else of ours.

`Keeper` keeps one instance registered; `Watcher` follows a set of instances over any number of streams. Both are the
state machines of docs/protocol.md.
"""

import asyncio
import json
import random
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass

import grpc
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status
from onair.v1 import instance_pb2, registry_pb2
from onair.v1.registry_pb2_grpc import RegistryStub

CALL_TIMEOUT = 10.0
LEAVE_TIMEOUT = 3.0
# A quiet watch says something this often; `GetServerInfo` tells the server's own.
BOOKMARK_INTERVAL = 15.0


def options(service_config: str) -> list[tuple[str, str | int]]:
    """What a channel to a registry is made with."""
    return [
        ("grpc.service_config", service_config),
        # By default a channel may wait for two minutes before it dials again, longer than any lease of ours lives.
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", 1_000),
        ("grpc.max_reconnect_backoff_ms", 3_000),
        # A new channel means a new connection. Otherwise it would share that of the channel just given up.
        ("grpc.use_local_subchannel_pool", 1),
    ]


class Line:
    """A channel that can be given up.

    A connection whose other end is gone without a word looks alive for a quarter of an hour, and every further call of
    its channel goes there. So whoever waited in vain for an answer takes a new one.
    """

    def __init__(self, target: str, service_config: str):
        self._dial = lambda: grpc.aio.insecure_channel(target, options(service_config))
        self.channel = self._dial()

    @property
    def registry(self) -> RegistryStub:
        return RegistryStub(self.channel)

    async def renew(self) -> None:
        old, self.channel = self.channel, self._dial()
        await old.close()

    async def close(self) -> None:
        await self.channel.close()


def details_of(status: status_pb2.Status | None) -> dict[type, list]:
    """The `google.rpc` details of a status, by type."""
    found: dict[type, list] = {}
    for packed in status.details if status else []:
        for kind in (
            error_details_pb2.ErrorInfo,
            error_details_pb2.BadRequest,
            error_details_pb2.ResourceInfo,
            error_details_pb2.RetryInfo,
        ):
            if packed.Is(kind.DESCRIPTOR):
                message = kind()
                packed.Unpack(message)
                found.setdefault(kind, []).append(message)
    return found


def reason_of(error: grpc.RpcError) -> str:
    infos = details_of(rpc_status.from_call(error)).get(error_details_pb2.ErrorInfo, [])
    return next((info.reason for info in infos if info.domain == "onair"), "")


def seconds(span: Duration) -> float:
    return span.ToTimedelta().total_seconds()


class Backoff:
    """Pauses between attempts: doubling, spread, never shorter than what the server asks for."""

    def __init__(self, longest: float = 2.0):
        self._longest = longest
        self.reset()

    def reset(self) -> None:
        self._next = 0.1

    async def pause(self, error: grpc.RpcError | None = None) -> None:
        wait = self._next * random.uniform(0.5, 1.0)
        self._next = min(self._next * 2, self._longest)
        details = details_of(rpc_status.from_call(error)) if error else {}
        for info in details.get(error_details_pb2.RetryInfo, []):
            wait = max(wait, seconds(info.retry_delay) * random.uniform(1.0, 1.5))
        await asyncio.sleep(wait)


# Trying the same again cannot help: what is asked for is wrong, or forbidden, or unknown to this server.
FINAL = {
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.UNIMPLEMENTED,
    grpc.StatusCode.ALREADY_EXISTS,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.UNAUTHENTICATED,
}


class Superseded(Exception):
    """Another process has our key. Stop; registering again would start a duel."""


class Keeper:
    """Keeps one instance registered while `run` runs."""

    def __init__(self, line: Line, instance: instance_pb2.Instance, ttl: Duration | None = None):
        self._line = line
        # Holds the last token and, once known, the id.
        self._request = registry_pb2.RegisterRequest(instance=instance, ttl=ttl)
        self.interval = 0.0
        self.incarnations: list[int] = []
        # Set by each beat that is answered RENEWED; for whoever wants to wait for one.
        self.renewed = asyncio.Event()

    @property
    def token(self) -> str:
        return self._request.lease_token

    async def run(self) -> None:
        while True:
            await self._register()
            await self._beat_until_lost()

    async def _register(self) -> None:
        # One id for all attempts: however many of them arrive, one registration is made.
        self._request.request_id = str(uuid.uuid4())
        backoff = Backoff()
        while True:
            try:
                reply = await self._line.registry.Register(self._request, timeout=CALL_TIMEOUT)
                break
            except grpc.RpcError as error:
                if reason_of(error) == "SUPERSEDED":
                    raise Superseded(error.details()) from error
                if error.code() in FINAL:
                    raise
                await self._failed(error)
                await backoff.pause(error)
        self._request.lease_token = reply.lease.token
        # An id that was made up for us is ours from now on.
        self._request.instance.id = reply.instance.id
        self.interval = seconds(reply.lease.heartbeat_interval)
        if reply.instance.incarnation not in self.incarnations:
            self.incarnations.append(reply.instance.incarnation)

    async def _beat_until_lost(self) -> None:
        """Returns when the lease is gone and its key is free."""
        backoff = Backoff(longest=self.interval)
        beat = registry_pb2.HeartbeatRequest(beats=[registry_pb2.Beat(lease_token=self.token)])
        await asyncio.sleep(self.interval * random.uniform(0.9, 1.0))
        while True:
            error = None
            try:
                # A beat that hangs is worth less than the next one.
                reply = await self._line.registry.Heartbeat(beat, timeout=max(self.interval, 0.5))
                match reply.results[0].state:
                    case registry_pb2.BEAT_STATE_RENEWED:
                        self.renewed.set()
                        backoff.reset()
                        await asyncio.sleep(self.interval * random.uniform(0.9, 1.0))
                        continue
                    case registry_pb2.BEAT_STATE_SUPERSEDED:
                        raise Superseded("a newer registration has our key")
                    case (
                        registry_pb2.BEAT_STATE_EXPIRED
                        | registry_pb2.BEAT_STATE_UNKNOWN
                        | registry_pb2.BEAT_STATE_DENIED
                    ):
                        return
                # Anything else, also what this code does not know: try again soon.
            except grpc.RpcError as failed:
                if failed.code() in FINAL:
                    raise
                error = failed
                await self._failed(error)
            await backoff.pause(error)

    async def _failed(self, error: grpc.RpcError) -> None:
        if error.code() == grpc.StatusCode.DEADLINE_EXCEEDED:
            await self._line.renew()

    async def leave(self) -> None:
        """Deregisters. A lease that is gone already is no error, so this is sent until it is answered."""
        request = registry_pb2.DeregisterRequest(lease_token=self.token)
        backoff = Backoff()
        while True:
            try:
                await self._line.registry.Deregister(request, timeout=LEAVE_TIMEOUT)
                return
            except grpc.RpcError as error:
                if error.code() in FINAL or reason_of(error) == "SUPERSEDED":
                    raise
                await self._failed(error)
                await backoff.pause(error)


Key = tuple[str, str, str]


def key_of(instance: instance_pb2.Instance) -> Key:
    return instance.namespace, instance.service, instance.id


@dataclass
class Seen:
    """One step, as the watcher's own set of instances took it."""

    type: int
    cause: int
    instance: instance_pb2.Instance


class Watcher:
    """Follows a set of instances over any number of streams as if it were one."""

    def __init__(self, line: Line, selectors: list[registry_pb2.Selector], bookmark_interval: float = BOOKMARK_INTERVAL):
        self._line = line
        self._request = registry_pb2.WatchRequest(selectors=selectors)
        # Two silent intervals, and a second for the way.
        self._silence = 2 * bookmark_interval + 1
        self.instances: dict[Key, instance_pb2.Instance] = {}
        # What the snapshot under way has not named yet; none is under way without it.
        self._unnamed: set[Key] | None = None
        # The messages of a revision (or snapshot) that is not complete.
        self._held: list[registry_pb2.WatchResponse] = []
        # Set once the first snapshot is complete.
        self.synced = asyncio.Event()
        self.redials = 0
        self.resets: list[int] = []

    async def run(self) -> AsyncIterator[list[Seen]]:
        """Yields what each whole revision did to `instances`."""
        backoff = Backoff()
        while True:
            # What was not complete comes again, whole.
            self._held.clear()
            if not self._request.resume_token:
                self._unnamed = set(self.instances)
            stream = self._line.registry.Watch(self._request)
            error = None
            try:
                while True:
                    async with asyncio.timeout(self._silence):
                        message = await stream.read()
                    if message is grpc.aio.EOF:
                        break  # no server of ours ends a watch without an error
                    backoff.reset()
                    if seen := self._take(message):
                        yield seen
            except TimeoutError:
                await self._line.renew()
            except grpc.RpcError as failed:
                if failed.code() in FINAL:
                    raise
                error = failed
            finally:
                stream.cancel()
            self.redials += 1
            await backoff.pause(error)

    def _take(self, message: registry_pb2.WatchResponse) -> list[Seen]:
        if message.HasField("reset"):
            # Keep what is there; what the snapshot does not name goes when it is complete.
            self.resets.append(message.reset.reason)
            self._held.clear()
            self._unnamed = set(self.instances)
            self._request.resume_token = ""
        self._held.append(message)
        if message.more:
            return []
        seen = [step for held in self._held for event in held.events for step in self._fold(event)]
        self._held.clear()
        if message.snapshot_end:
            for key in self._unnamed or ():
                gone = self.instances.pop(key)
                seen.append(Seen(instance_pb2.EVENT_TYPE_OFFLINE, instance_pb2.CAUSE_UNSPECIFIED, gone))
            self._unnamed = None
            self.synced.set()
        # Only now: with this token the server takes it that everything so far was acted on.
        if message.resume_token:
            self._request.resume_token = message.resume_token
        return seen

    def _fold(self, event: instance_pb2.Event) -> list[Seen]:
        key = key_of(event.instance)
        if event.type == instance_pb2.EVENT_TYPE_OFFLINE:
            self.instances.pop(key, None)
            return [Seen(event.type, event.cause, event.instance)]
        known = self.instances.get(key)
        self.instances[key] = event.instance
        if self._unnamed is not None:
            self._unnamed.discard(key)
            if known is not None:
                # A snapshot after a reset: what we had already is news only if it changed.
                changed = known.revision != event.instance.revision
                kind, cause = instance_pb2.EVENT_TYPE_UPDATED, instance_pb2.CAUSE_UNSPECIFIED
                return [Seen(kind, cause, event.instance)] if changed else []
        return [Seen(event.type, event.cause, event.instance)]


def service_config(path: str) -> str:
    """The service config as the channel wants it: JSON text."""
    with open(path, encoding="utf-8") as file:
        return json.dumps(json.load(file))
