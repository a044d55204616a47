"""A correct client of the registry, over generated stubs and nothing else of ours.

A `Keeper` keeps one instance registered, a `Watcher` follows a set of instances over any number of streams. Both are the
state machines of docs/protocol.md. What happens to them they tell `say(event, **facts)`.
"""

import asyncio
import random
import time
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

import grpc
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from onair.v1 import instance_pb2 as instances
from onair.v1 import registry_pb2 as api
from onair.v1.registry_pb2_grpc import RegistryStub

Say = Callable[..., None]
Key = tuple[str, str, str]

CALL_TIMEOUT = 10.0
LEAVE_TIMEOUT = 3.0
# Of a stream that has not said yet how often it speaks.
FIRST_SILENCE = 30.0

# Trying the same again cannot help: what is asked for is wrong, or forbidden, or unknown to this server.
FINAL = {
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.UNIMPLEMENTED,
    grpc.StatusCode.ALREADY_EXISTS,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.UNAUTHENTICATED,
}


class Superseded(Exception):
    """Another process has our key, at the address `holder`. Stop; registering again would start a duel."""

    def __init__(self, holder: str):
        super().__init__(f"a newer registration at {holder} has our key")
        self.holder = holder


class Line:
    """A channel that can be given up.

    A connection whose other end is gone without a word looks alive for a quarter of an hour, and every further call of
    its channel goes there. So whoever waited in vain for an answer takes a new one.
    """

    def __init__(self, target: str):
        self._target = target
        self.channel = self._dial()

    def _dial(self) -> grpc.aio.Channel:
        options = [
            # By default a channel may wait for two minutes before it dials again, longer than most leases live.
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.min_reconnect_backoff_ms", 1_000),
            ("grpc.max_reconnect_backoff_ms", 3_000),
            # Otherwise a new channel shares the connection of the one that was given up.
            ("grpc.use_local_subchannel_pool", 1),
        ]
        return grpc.aio.insecure_channel(self._target, options)

    @property
    def registry(self) -> RegistryStub:
        return RegistryStub(self.channel)

    async def renew(self) -> None:
        old, self.channel = self.channel, self._dial()
        await old.close()

    async def failed(self, error: grpc.RpcError) -> None:
        """Raises what cannot be helped by trying again."""
        for info in details_of(error, error_details_pb2.ErrorInfo):
            if info.reason == "SUPERSEDED":
                raise Superseded(info.metadata["holder"]) from error
        if error.code() in FINAL:
            raise error
        if error.code() == grpc.StatusCode.DEADLINE_EXCEEDED:
            await self.renew()


def details_of(error: grpc.RpcError, kind: type):
    """The `google.rpc` details of one type."""
    status = rpc_status.from_call(error)
    for packed in status.details if status else []:
        if packed.Is(kind.DESCRIPTOR):
            packed.Unpack(message := kind())
            yield message


def reason_of(error: grpc.RpcError) -> str:
    """The registry's reason; empty where it said nothing."""
    infos = details_of(error, error_details_pb2.ErrorInfo)
    return next((info.reason for info in infos if info.domain == "onair"), "")


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
        for info in details_of(error, error_details_pb2.RetryInfo) if error else []:
            wait = max(wait, seconds(info.retry_delay) * random.uniform(1.0, 1.5))
        await asyncio.sleep(wait)


def seconds(span: Duration) -> float:
    return span.ToTimedelta().total_seconds()


class Keeper:
    """Keeps one instance registered while `run` runs."""

    def __init__(self, line: Line, instance: instances.Instance, ttl: Duration, say: Say):
        self._line, self._say = line, say
        # Holds the last token and, once known, the id.
        self._request = api.RegisterRequest(instance=instance, ttl=ttl)
        self._interval = 0.0

    async def run(self) -> None:
        """Registers and beats, and registers again whenever the lease is lost; raises when that makes no sense."""
        while True:
            await self._register()
            await self._beat_until_lost()

    async def _register(self) -> None:
        # One id for all attempts: however many of them arrive, one registration is made.
        self._request.request_id = str(uuid.uuid4())
        backoff = Backoff()
        while True:
            try:
                self._accept(await self._answered())
                return
            except grpc.RpcError as error:
                await self._line.failed(error)
                await backoff.pause(error)

    async def _answered(self) -> api.RegisterResponse:
        """The answer of a registration. Told to leave meanwhile, waits for it: only its token takes the lease away."""
        call = self._line.registry.Register(self._request, timeout=CALL_TIMEOUT, wait_for_ready=True)
        asking = asyncio.ensure_future(call)
        try:
            return await asyncio.shield(asking)
        except asyncio.CancelledError:
            answered, _ = await asyncio.wait([asking], timeout=LEAVE_TIMEOUT)
            asking.cancel()
            if answered and not asking.exception():
                self._accept(asking.result())
            raise

    def _accept(self, reply: api.RegisterResponse) -> None:
        self._request.lease_token = reply.lease.token
        # An id that was made up for us is ours from now on.
        self._request.instance.id = reply.instance.id
        self._interval = seconds(reply.lease.heartbeat_interval)
        self._say("registered", instance=reply.instance, revision=reply.revision)

    async def _beat_until_lost(self) -> None:
        """Returns when the lease is gone and its key is free."""
        backoff = Backoff(longest=self._interval)
        await self._until_next_beat()
        while True:
            error = None
            try:
                # A beat that hangs is worth less than the next one.
                result = await self._beat(max(self._interval, 0.5))
                state = result.state
                self._say("beat", state=api.BeatState.Name(state))
                if state == api.BEAT_STATE_RENEWED:
                    backoff.reset()
                    await self._until_next_beat()
                    continue
                if state == api.BEAT_STATE_SUPERSEDED:
                    raise Superseded(result.holder)
                if state in (api.BEAT_STATE_EXPIRED, api.BEAT_STATE_UNKNOWN, api.BEAT_STATE_DENIED):
                    return
                # Anything else, also what this code does not know: try again soon.
            except grpc.RpcError as failed:
                await self._line.failed(error := failed)
            await backoff.pause(error)

    async def _until_next_beat(self) -> None:
        await asyncio.sleep(self._interval * random.uniform(0.9, 1.0))

    async def _beat(self, timeout: float) -> api.BeatResult:
        request = api.HeartbeatRequest(beats=[api.Beat(lease_token=self._request.lease_token)])
        reply = await self._line.registry.Heartbeat(request, timeout=timeout, wait_for_ready=True)
        return reply.results[0]

    async def drain(self, wait: float) -> None:
        """Takes the instance out of traffic, and returns when its clients know. The lease has to be kept meanwhile.

        Raises if another process has our key; whatever else goes wrong is told, and nothing to stay for.
        """
        # Should it be lost, what is registered anew takes no traffic either.
        self._request.instance.status = instances.STATUS_DRAINING
        if not self._request.lease_token:
            return  # it never was registered
        backoff, until = Backoff(), time.monotonic() + wait
        try:
            async with asyncio.timeout(wait + LEAVE_TIMEOUT):
                # A beat that hangs takes the channel from this call as well: it may be made again.
                while not (reply := await self._try_to_drain(until, backoff)):
                    pass
            self._say("drained", pending=str(reply.pending), sent=str(reply.sent), acked=str(reply.acked))
        except TimeoutError:
            self._say("failed", code="DEADLINE_EXCEEDED")  # nobody hears of it, so there is nothing to wait for
        except grpc.RpcError as error:
            self._say("failed", code=error.code().name)

    async def _try_to_drain(self, until: float, backoff: Backoff) -> api.DrainResponse | None:
        left = max(until - time.monotonic(), 0)
        request = api.DrainRequest(lease_token=self._request.lease_token)
        request.wait.FromMilliseconds(int(left * 1_000))
        try:
            return await self._line.registry.Drain(request, timeout=left + LEAVE_TIMEOUT, wait_for_ready=True)
        except grpc.RpcError as error:
            await self._line.failed(error)
            await backoff.pause(error)
        except asyncio.CancelledError:
            # So grpc tells that the channel was closed; what was really cancelled goes on being so.
            if asyncio.current_task().cancelling():
                raise
            await backoff.pause()
        return None

    async def leave(self) -> None:
        """Takes the instance away. Nothing may register it any more."""
        if not self._request.lease_token:
            return
        request = api.DeregisterRequest(lease_token=self._request.lease_token)
        try:
            reply = await self._line.registry.Deregister(request, timeout=LEAVE_TIMEOUT, wait_for_ready=True)
            self._say("deregistered", removed=str(reply.removed))
        except grpc.RpcError as error:
            self._say("failed", code=error.code().name)  # the lease ends by itself


@dataclass
class Revision:
    """What one whole revision, or snapshot, did to the set. No events: a bookmark."""

    number: int
    token: str
    events: list[instances.Event]
    snapshot: bool


class Watcher:
    """Follows a set of instances over any number of streams as if it were one."""

    def __init__(self, line: Line, selectors: list[api.Selector], say: Say):
        self._line, self._say = line, say
        self._request = api.WatchRequest(selectors=selectors)
        self._silence = FIRST_SILENCE
        self.instances: dict[Key, instances.Instance] = {}
        # What the snapshot under way has not named yet; None while there is no snapshot.
        self._unnamed: set[Key] | None = None
        # The messages of a revision (or snapshot) that is not complete.
        self._held: list[api.WatchResponse] = []

    async def run(self) -> AsyncIterator[Revision]:
        backoff = Backoff()
        while True:
            # What was not complete comes again, whole.
            self._held.clear()
            if not self._request.resume_token:
                self._unnamed = set(self.instances)
            self._say("watching", token=self._request.resume_token)
            stream = self._line.registry.Watch(self._request, wait_for_ready=True)
            error = None
            try:
                while True:
                    async with asyncio.timeout(self._silence):
                        message = await stream.read()
                    if message is grpc.aio.EOF:
                        break  # no server of ours ends a watch without an error
                    backoff.reset()
                    if message.HasField("bookmark_interval"):
                        # Two silent intervals, and a second for the way.
                        self._silence = 2 * seconds(message.bookmark_interval) + 1
                    if revision := self._take(message):
                        yield revision
            except TimeoutError:
                self._say("silent")
                await self._line.renew()
            except grpc.RpcError as failed:
                error = failed
                self._say("ended", code=error.code().name, reason=reason_of(error))
                await self._line.failed(error)
            finally:
                stream.cancel()
            await backoff.pause(error)

    def _take(self, message: api.WatchResponse) -> Revision | None:
        if message.HasField("reset"):
            # Keep what is there; what the snapshot does not name goes when it is complete.
            self._say("reset", reason=api.ResetReason.Name(message.reset.reason))
            self._held.clear()
            self._unnamed = set(self.instances)
            self._request.resume_token = ""
        self._held.append(message)
        if message.more:
            return None
        events = [event for held in self._held for event in held.events]
        self._held.clear()
        for event in events:
            key = (event.instance.namespace, event.instance.service, event.instance.id)
            if event.type == instances.EVENT_TYPE_OFFLINE:
                self.instances.pop(key, None)
            else:
                self.instances[key] = event.instance
            if self._unnamed is not None:
                self._unnamed.discard(key)
        if message.snapshot_end:
            for key in self._unnamed or ():
                del self.instances[key]
            self._unnamed = None
        # Only now: with this token the server takes it that everything so far was acted on.
        self._request.resume_token = message.resume_token or self._request.resume_token
        return Revision(message.revision, message.resume_token, events, message.snapshot_end)
