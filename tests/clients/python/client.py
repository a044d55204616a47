"""The channel of the tour, and what a failure says. A client that keeps a lease and follows a set is in examples/python."""

import json

from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2, status_pb2


def options(service_config: str) -> list[tuple[str, str | int]]:
    """What a channel to a registry is made with."""
    return [
        ("grpc.service_config", service_config),
        # By default a channel may wait for two minutes before it dials again, longer than any lease of ours lives.
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", 1_000),
        ("grpc.max_reconnect_backoff_ms", 3_000),
    ]


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


def seconds(span: Duration) -> float:
    return span.ToTimedelta().total_seconds()


def service_config(path: str) -> str:
    """The service config as the channel wants it: JSON text."""
    with open(path, encoding="utf-8") as file:
        return json.dumps(json.load(file))
