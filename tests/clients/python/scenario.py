"""The tour that every language takes: says what it did as lines of JSON, which tests/clients/scenario.rs checks.

    PYTHONPATH=<stubs> python scenario.py <host:port> <service config>

A line `{"step": "please", "do": …}` asks for something to be done to the server, and waits for a line that it is done.
"""

import asyncio
import json
import sys
import time

import grpc
from client import details_of, options, seconds, service_config
from google.protobuf.duration_pb2 import Duration
from google.protobuf.struct_pb2 import Value
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status
from onair.v1 import instance_pb2 as i
from onair.v1 import registry_pb2 as r
from onair.v1.registry_pb2_grpc import RegistryStub


def say(step: str, **facts: object) -> None:
    print(json.dumps({"step": step, **facts}), flush=True)


async def please(do: str) -> None:
    say("please", do=do)
    if not await asyncio.to_thread(sys.stdin.readline):
        sys.exit("nobody answers")


def name(enum: object, value: int) -> str:
    """The name of an enum's value without the enum's prefix, also of one that this code does not know."""
    if value not in enum.values():
        return f"UNKNOWN_{value}"
    prefix = enum.Name(0).removesuffix("UNSPECIFIED")
    return enum.Name(value).removeprefix(prefix)


def show(event: i.Event) -> str:
    what = event.instance
    return f"{name(i.EventType, event.type)} {name(i.Cause, event.cause)} {what.service}/{what.id}"


def failed(code: grpc.StatusCode, status: status_pb2.Status | None) -> dict[str, object]:
    """An error as a program sees it."""
    details = details_of(status)
    facts: dict[str, object] = {"code": code.name}
    for info in details.get(error_details_pb2.ErrorInfo, []):
        facts |= {"domain": info.domain, "reason": info.reason, "metadata": dict(info.metadata)}
    for bad in details.get(error_details_pb2.BadRequest, []):
        facts["violations"] = [violation.field for violation in bad.field_violations]
    for resource in details.get(error_details_pb2.ResourceInfo, []):
        facts["resource"] = resource.resource_name
    for retry in details.get(error_details_pb2.RetryInfo, []):
        facts["retry_ms"] = round(seconds(retry.retry_delay) * 1000)
    return facts


async def refused(call) -> dict[str, object]:
    try:
        await call
    except grpc.RpcError as error:
        return failed(error.code(), rpc_status.from_call(error))
    return {"code": "OK"}


class Tape:
    """A raw watch, message by message."""

    def __init__(self, stub: RegistryStub, selector: r.Selector, token: str = ""):
        self.stream = stub.Watch(r.WatchRequest(selectors=[selector], resume_token=token))
        self.token = ""
        self.revision = 0

    async def next(self) -> dict[str, object]:
        message = await asyncio.wait_for(self.stream.read(), 20)
        self.token = message.resume_token or self.token
        self.revision = message.revision
        facts: dict[str, object] = {"events": [show(event) for event in message.events]}
        if message.snapshot_end:
            facts["snapshot_end"] = True
        if message.HasField("reset"):
            facts["reset"] = name(r.ResetReason, message.reset.reason)
        if not message.more and not message.resume_token:
            facts["fault"] = "a whole revision without a resume token"
        return facts

    async def end(self) -> dict[str, object]:
        """Reads to the end; whether the last message was a bookmark, and the error."""
        bookmark = False
        try:
            while (message := await asyncio.wait_for(self.stream.read(), 20)) is not grpc.aio.EOF:
                bookmark = not message.events and bool(message.resume_token)
        except grpc.RpcError as error:
            return {"bookmark": bookmark} | failed(error.code(), rpc_status.from_call(error))
        return {"bookmark": bookmark, "code": "OK"}


def ms(span: Duration) -> int:
    return round(seconds(span) * 1000)


def since(start: float) -> int:
    return round((time.monotonic() - start) * 1000)


WEB = r.Selector(service="web")


class Tour:
    def __init__(self, target: str, config: str):
        self.channel = grpc.aio.insecure_channel(target, options(config))
        self.stub = RegistryStub(self.channel)
        self.health = health_pb2_grpc.HealthStub(self.channel)

    async def run(self) -> None:
        await self.info()
        bookmark = asyncio.create_task(self.bookmark())
        await self.register()
        await self.beat()
        await self.take_over()
        await self.look_up()
        await self.be_refused()
        await self.subscribe()
        await self.check_health()
        await self.resume()
        await self.expire()
        say("bookmark", **await bookmark)
        await self.survive()
        await self.stop()

    async def info(self) -> None:
        info = await self.stub.GetServerInfo(r.GetServerInfoRequest())
        say(
            "info",
            default_ttl_ms=ms(info.intervals.default_ttl),
            min_ttl_ms=ms(info.intervals.min_ttl),
            max_ttl_ms=ms(info.intervals.max_ttl),
            bookmark_ms=ms(info.intervals.bookmark_interval),
            max_beats=info.limits.max_beats,
            max_name_bytes=info.limits.max_name_bytes,
            durable=info.durable,
        )

    async def bookmark(self) -> dict[str, object]:
        """How a watch of what never changes goes on."""
        tape = Tape(self.stub, r.Selector(service="quiet"))
        first = await tape.next()
        start, revision = time.monotonic(), tape.revision
        second = await tape.next()
        tape.stream.cancel()
        # Its revision has gone on with the registry's, so that resuming from it stays cheap.
        return {"first": first, "second": second, "quiet_ms": since(start), "moved": tape.revision > revision}

    async def register(self) -> None:
        self.tape = Tape(self.stub, WEB)
        say("snapshot", **await self.tape.next())

        metadata = Value()
        metadata.struct_value.update({"team": "red", "canary": True})
        wanted = i.Instance(service="web", id="a", port=8001, version="1.2.3", zone="eu", metadata=metadata)
        request = r.RegisterRequest(instance=wanted, request_id="one")
        first = await self.stub.Register(request)
        instance = first.instance
        say(
            "registered",
            key=[instance.namespace, instance.service, instance.id],
            url=instance.url,
            status=name(i.Status, instance.status),
            weight=[instance.HasField("weight"), instance.weight],
            ttl_ms=ms(first.lease.ttl),
            interval_ms=ms(first.lease.heartbeat_interval),
            incarnation_is_revision=instance.incarnation == instance.revision == first.revision,
            online_since_today=abs(instance.online_since.ToSeconds() - time.time()) < 86_400,
            metadata=instance.metadata.struct_value["team"],
        )
        say("seen", **await self.tape.next())

        again = await self.stub.Register(request)
        say(
            "repeated",
            same=again.instance.incarnation == instance.incarnation,
            new_token=again.lease.token != first.lease.token,
        )

        wanted.version, wanted.weight = "1.3.0", 0
        request = r.RegisterRequest(instance=wanted, lease_token=again.lease.token, ttl=Duration(seconds=600))
        updated = await self.stub.Register(request)
        say(
            "updated",
            same=updated.instance.incarnation == instance.incarnation,
            weight=[updated.instance.HasField("weight"), updated.instance.weight],
            ttl_ms=ms(updated.lease.ttl),
        )
        say("seen", **await self.tape.next())
        self.a = updated.lease.token

        wanted = i.Instance(service="web", url="http://127.0.0.1:8002", version="2.0.0", zone="us")
        self.b = (await self.stub.Register(r.RegisterRequest(instance=wanted, ttl=Duration(seconds=600)))).lease.token
        say("seen", **await self.tape.next())

    async def beat(self) -> None:
        def beats(*tokens: str) -> r.HeartbeatRequest:
            return r.HeartbeatRequest(beats=[r.Beat(lease_token=token) for token in tokens])

        def states(reply: r.HeartbeatResponse) -> list[str]:
            return [name(r.BeatState, result.state) for result in reply.results]

        reply = await self.stub.Heartbeat(beats(self.a, "garbage", "", self.b))
        ttls = [ms(result.ttl) for result in reply.results if result.HasField("ttl")]
        say("beats", states=states(reply), ttls_ms=ttls)

        async def requests():
            yield beats(self.b)
            yield beats("garbage", self.a)

        say("beat_stream", states=[states(reply) async for reply in self.stub.HeartbeatStream(requests())])

        for status in (i.STATUS_DRAINING, i.STATUS_SERVING):
            await self.stub.Heartbeat(r.HeartbeatRequest(beats=[r.Beat(lease_token=self.b, status=status)]))
            say("seen", **await self.tape.next())

    async def take_over(self) -> None:
        """Another process comes with the same key and without our token."""
        wanted = i.Instance(service="web", id="a", port=8001, version="1.4.0", zone="eu")
        taken = await self.stub.Register(r.RegisterRequest(instance=wanted, ttl=Duration(seconds=600)))
        say("seen", **await self.tape.next())
        reply = await self.stub.Heartbeat(r.HeartbeatRequest(beats=[r.Beat(lease_token=self.a)]))
        say("superseded", state=name(r.BeatState, reply.results[0].state))
        for call in (
            self.stub.Register(r.RegisterRequest(instance=wanted, lease_token=self.a)),
            self.stub.Deregister(r.DeregisterRequest(lease_token=self.a)),
        ):
            say("refused", **await refused(call))
        self.a = taken.lease.token

    async def look_up(self) -> None:
        async def ids(**query) -> None:
            reply = await self.stub.Lookup(r.LookupRequest(service=query.pop("service", "web"), **query))
            emptiness = {"emptiness": name(r.Emptiness, reply.emptiness)} if reply.emptiness else {}
            say("found", ids=[instance.id for instance in reply.instances], **emptiness)

        await ids()
        await ids(version="^1.2")
        await ids(version=">=1, <3", selector="zone in (us, asia)")
        await ids(selector="status=*", limit=1)
        await ids(pick=r.PICK_WEIGHTED, limit=5, prefer_zone="us")
        await ids(version="^9")
        await ids(service="nobody")
        keyed = r.LookupRequest(service="web", pick=r.PICK_RENDEZVOUS, pick_key="user-7")
        same = {(await self.stub.Lookup(keyed)).instances[0].id for _ in range(5)}
        say("rendezvous", distinct=len(same))
        page = await self.stub.Lookup(r.LookupRequest(service="web", limit=1))
        rest = await self.stub.Lookup(r.LookupRequest(service="web", limit=1, page_token=page.next_page_token))
        say("pages", ids=[page.instances[0].id, rest.instances[0].id], more=bool(rest.next_page_token))
        listed = await self.stub.ListServices(r.ListServicesRequest())
        say("listed", services=[[s.namespace, s.service, s.instances, s.routable] for s in listed.services])

    async def be_refused(self) -> None:
        bad = i.Instance(service="", id="x/y", port=70_000, status=i.STATUS_SUSPECT)
        one = r.Beat(lease_token=self.a)
        for call in (
            self.stub.Register(r.RegisterRequest(instance=bad, ttl=Duration(seconds=-1))),
            self.stub.Register(r.RegisterRequest(instance=i.Instance(service="web"), dependencies={"nobody": "^9"})),
            self.stub.Lookup(r.LookupRequest(service="web", selector="zone ~ eu")),
            self.stub.Lookup(r.LookupRequest(service="web", min_revision=1 << 60, wait=Duration(nanos=1_000_000))),
            self.stub.Heartbeat(r.HeartbeatRequest(beats=[one] * 10_001)),
            self.stub.Deregister(r.DeregisterRequest()),
            Tape(self.stub, r.Selector(service="web", frontend="web", version="^")).next(),
        ):
            say("refused", **await refused(call))

    async def subscribe(self) -> None:
        """Several watches on one stream; one of them is bad, and the others go on."""
        stream = self.stub.Subscribe()

        async def group(wanted: str) -> dict[str, object]:
            while True:
                message = await asyncio.wait_for(stream.read(), 20)
                for group in message.groups:
                    if group.id == wanted:
                        facts: dict[str, object] = {"id": wanted, "events": [show(event) for event in group.events]}
                        facts |= {flag: True for flag in ("snapshot_end", "dropped") if getattr(group, flag)}
                        if group.HasField("error"):
                            codes = {code.value[0]: code for code in grpc.StatusCode}
                            facts["error"] = failed(codes[group.error.code], group.error)
                        return facts | {"token": bool(group.resume_token)}

        add = r.AddSubscription(id="us", selectors=[r.Selector(service="web", selector="zone=us")])
        await stream.write(r.SubscribeRequest(add=add))
        say("group", **await group("us"))
        bad = r.AddSubscription(id="bad", selectors=[r.Selector(selector="?")])
        await stream.write(r.SubscribeRequest(add=bad))
        say("group", **await group("bad"))
        await self.stub.Heartbeat(r.HeartbeatRequest(beats=[r.Beat(lease_token=self.b, status=i.STATUS_STARTING)]))
        say("group", **await group("us"))
        say("seen", **await self.tape.next())
        await self.stub.Heartbeat(r.HeartbeatRequest(beats=[r.Beat(lease_token=self.b, status=i.STATUS_SERVING)]))
        say("group", **await group("us"))
        say("seen", **await self.tape.next())
        await stream.write(r.SubscribeRequest(drop=r.DropSubscription(id="us")))
        say("group", **await group("us"))
        stream.cancel()

    async def check_health(self) -> None:
        async def check(service: str) -> str:
            try:
                reply = await self.health.Check(health_pb2.HealthCheckRequest(service=service))
            except grpc.RpcError as error:
                return error.code().name
            return health_pb2.HealthCheckResponse.ServingStatus.Name(reply.status)

        names = ["", "onair.v1.Registry", "web", "default/web", "nobody"]
        say("health", checks=[await check(name) for name in names])
        watch = self.health.Watch(health_pb2.HealthCheckRequest(service="later"))

        async def said() -> str:
            reply = await asyncio.wait_for(watch.read(), 20)
            return health_pb2.HealthCheckResponse.ServingStatus.Name(reply.status)

        statuses = [await said()]
        reply = await self.stub.Register(r.RegisterRequest(instance=i.Instance(service="later", port=1)))
        statuses.append(await said())
        await self.stub.Deregister(r.DeregisterRequest(lease_token=reply.lease.token))
        statuses.append(await said())
        watch.cancel()
        say("health_watch", statuses=statuses)

    async def resume(self) -> None:
        """What happened while nobody looked."""
        self.tape.stream.cancel()
        token = self.tape.token
        request = r.RegisterRequest(instance=i.Instance(service="web", id="c", port=8003))
        c = (await self.stub.Register(request)).lease.token
        await self.stub.Register(r.RegisterRequest(instance=i.Instance(service="other", id="o", port=9000)))
        removed = [(await self.stub.Deregister(r.DeregisterRequest(lease_token=c))).removed for _ in range(2)]
        say("removed", removed=removed)
        tape = Tape(self.stub, WEB, token)
        events = []
        while len(events) < 2:
            facts = await tape.next()
            events += facts.pop("events")
            if facts:
                events.append(facts)
        say("missed", events=events)
        tape.stream.cancel()
        for selector, token in ((r.Selector(service="web", version="^1"), tape.token), (WEB, "garbage")):
            tape = Tape(self.stub, selector, token)
            say("reset", **await tape.next())
            tape.stream.cancel()

    async def expire(self) -> None:
        tape = Tape(self.stub, r.Selector(service="short"))
        await tape.next()
        wanted = i.Instance(service="short", id="s", port=8004)
        request = r.RegisterRequest(instance=wanted, ttl=Duration(seconds=2))
        first = await self.stub.Register(request)
        await tape.next()
        beat = r.HeartbeatRequest(beats=[r.Beat(lease_token=first.lease.token)])
        for _ in range(2):
            await asyncio.sleep(seconds(first.lease.heartbeat_interval))
            last = time.monotonic()
            reply = await self.stub.Heartbeat(beat)
            assert reply.results[0].state == r.BEAT_STATE_RENEWED
        facts = await tape.next()
        say("expired", after_ms=since(last), **facts)
        reply = await self.stub.Heartbeat(beat)
        request.lease_token = first.lease.token
        second = await self.stub.Register(request)
        say(
            "healed",
            state=name(r.BeatState, reply.results[0].state),
            newer=second.instance.incarnation > first.instance.incarnation,
        )
        say("seen", **await tape.next())
        await self.stub.Deregister(r.DeregisterRequest(lease_token=second.lease.token))
        tape.stream.cancel()

    async def survive(self) -> None:
        """The server is killed and comes back with its data."""
        # In flight when the server dies: the service config has it tried again.
        lookup = self.stub.Lookup(r.LookupRequest(service="awaited", wait=Duration(seconds=20)))
        before = await self.stub.GetServerInfo(r.GetServerInfoRequest())
        await please("kill")
        await please("start")
        # Waits for the connection: the service config says so.
        after = await self.stub.GetServerInfo(r.GetServerInfoRequest())
        await self.stub.Register(r.RegisterRequest(instance=i.Instance(service="awaited", id="m", port=8007)))
        say(
            "survived",
            same_registry=after.registry_id == before.registry_id,
            new_epoch=after.epoch != before.epoch,
            awaited=[instance.id for instance in (await lookup).instances],
        )

    async def stop(self) -> None:
        """How everything open ends when the server is told to stop."""
        tape = Tape(self.stub, WEB)
        await tape.next()
        health = self.health.Watch(health_pb2.HealthCheckRequest(service=""))
        await health.read()
        beats = self.stub.HeartbeatStream()
        await beats.write(r.HeartbeatRequest(beats=[r.Beat()]))
        await beats.read()
        await please("stop")
        say("watch_ended", **await tape.end())
        said = health_pb2.HealthCheckResponse.ServingStatus.Name((await health.read()).status)
        say("health_ended", said=said, **await refused(health.read()))
        say("beats_ended", **await refused(beats.read()))
        await self.channel.close()


async def main() -> None:
    target, config = sys.argv[1:]
    await Tour(target, service_config(config)).run()


if __name__ == "__main__":
    asyncio.run(main())
