"""What the fuzzer finds and is no fault."""

import re

import schemathesis
from schemathesis.core.failures import AcceptedNegativeData


def is_read_anyway(value):
    """Proto JSON reads null as nothing, wherever it stands, and the number of an enum's value as its name."""
    if isinstance(value, dict):
        return type(value.get("status")) is int or is_read_anyway(list(value.values()))
    return any(is_read_anyway(of) for of in value) if isinstance(value, list) else value is None


@schemathesis.hook
def filter_failure(context, failure, case, response):
    return not (isinstance(failure, AcceptedNegativeData) and is_read_anyway(case.body))


@schemathesis.hook
def before_call(context, case, kwargs):
    # A poll that is held is as good after a moment.
    if isinstance(case.body, dict) and re.fullmatch(r"[0-9.]+s", str(case.body.get("wait"))):
        case.body["wait"] = "0.02s"
