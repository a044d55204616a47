"""A program that is on the air: registered while it runs, and following a service.

What happens it says as lines of JSON. Ends with 0 when it was asked to (SIGTERM, SIGINT), with 3 when another process
took its key.
"""

import argparse
import asyncio
import json
import signal
import sys
import time

import grpc
from client import Keeper, Line, Superseded, Watcher
from google.protobuf.duration_pb2 import Duration
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2, health_pb2_grpc
from onair.v1 import instance_pb2 as instances
from onair.v1 import registry_pb2 as api

SUPERSEDED = 3


def say(event: str, **facts: object) -> None:
    """A line: messages as JSON has them, revisions as text, since JSON's numbers end at 2^53."""

    def plain(value: object) -> object:
        return MessageToDict(value) if isinstance(value, Message) else value

    told = {name: str(value) if name == "revision" else plain(value) for name, value in facts.items()}
    print(json.dumps({"event": event, "at": time.time_ns() // 1_000_000} | told), flush=True)


class Program:
    def __init__(self, args: argparse.Namespace):
        self.args = args
        # A line of its own for the lease: whatever else there is to read, beats do not wait behind it.
        self.lease_line, self.line = Line(args.registry), Line(args.registry)
        instance = instances.Instance(service=args.service, id=args.id, port=args.port, version="1.0.0")
        instance.metadata.struct_value.update({"language": "python"})
        self.keeper = Keeper(self.lease_line, instance, Duration(seconds=args.ttl), say)
        # The last revision that was seen, and whether it is a new one.
        self.revision, self.changed = 0, asyncio.Event()

    async def run(self) -> int:
        told_to_stop = asyncio.Event()
        for name in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(name, told_to_stop.set)
        keeping = asyncio.create_task(self.keeper.run())
        working = [keeping, asyncio.create_task(self.follow()), asyncio.create_task(self.ask())]
        stopping = asyncio.create_task(told_to_stop.wait())
        done, _ = await asyncio.wait([stopping, *working], return_when=asyncio.FIRST_COMPLETED)
        if stopping in done:
            for name in (signal.SIGTERM, signal.SIGINT):
                # Whoever asks twice does not want to wait.
                asyncio.get_running_loop().remove_signal_handler(name)
            draining = asyncio.create_task(self.keeper.drain(self.args.drain))
            # If another process has its key by then, there is nothing to wait for.
            await asyncio.wait([draining, keeping], return_when=asyncio.FIRST_COMPLETED)
            working.append(draining)
        for task in working:
            task.cancel()
        results = await asyncio.gather(*working, return_exceptions=True)
        superseded = next((result for result in results if isinstance(result, Superseded)), None)
        if superseded:
            say("superseded", holder=superseded.holder)
        elif stopping in done:
            await self.keeper.leave()
        await self.lease_line.channel.close()
        await self.line.channel.close()
        if superseded:
            return SUPERSEDED
        for failed in (result for result in results if isinstance(result, Exception)):
            raise failed
        return 0

    async def follow(self) -> None:
        """Says what comes, changes and goes."""
        selectors = [api.Selector(service=self.args.watch or self.args.service)]
        watcher = Watcher(self.line, selectors, say)
        async for revision in watcher.run():
            for event in revision.events:
                kind = instances.EventType.Name(event.type).removeprefix("EVENT_TYPE_").lower()
                cause = instances.Cause.Name(event.cause)
                say(kind, cause=cause, revision=revision.number, instance=event.instance)
            ids = sorted(instance.id for instance in watcher.instances.values())
            kind = "set" if revision.events or revision.snapshot else "bookmark"
            say(kind, revision=revision.number, token=revision.token, snapshotEnd=revision.snapshot, ids=ids)
            if kind == "set":
                self.revision = revision.number
                self.changed.set()

    async def ask(self) -> None:
        """After each change, looks up what there is, no older than the watch has shown, and asks whether it is well."""
        service = self.args.watch or self.args.service
        while True:
            await self.changed.wait()
            self.changed.clear()
            lookup = api.LookupRequest(service=service, min_revision=self.revision)
            asked = time.time_ns() // 1_000_000
            try:
                found = await self.line.registry.Lookup(lookup, timeout=5, wait_for_ready=True)
                there = [MessageToDict(instance) for instance in found.instances]
                facts = {"emptiness": api.Emptiness.Name(found.emptiness), "instances": there}
                say("looked-up", asked=asked, minRevision=str(lookup.min_revision), revision=found.revision, **facts)
                health = health_pb2_grpc.HealthStub(self.line.channel)
                request = health_pb2.HealthCheckRequest(service=service)
                reply = await health.Check(request, timeout=5, wait_for_ready=True)
                status = health_pb2.HealthCheckResponse.ServingStatus.Name(reply.status)
                say("health", service=service, status=status)
            except grpc.RpcError as error:
                # What is known stays good; the next change asks again.
                say("failed", code=error.code().name)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--registry", default="127.0.0.1:6624", help="host:port")
    parser.add_argument("--service", required=True, help="what to register")
    parser.add_argument("--id", default="", help="which copy of it; made up by the registry if left out")
    parser.add_argument("--port", type=int, default=8080, help="where it would listen")
    parser.add_argument("--ttl", type=int, default=10, help="seconds that it lives without a beat")
    parser.add_argument("--watch", default="", help="the service to follow; its own if left out")
    parser.add_argument("--drain", type=float, default=5.0, help="seconds that clients have to hear that it leaves")
    return parser.parse_args()


async def main() -> int:
    # Channels belong to the loop in which they are made.
    return await Program(arguments()).run()


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
