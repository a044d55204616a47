"""What the fuzzer finds and is no fault."""

import functools
import json
import re

import schemathesis
from schemathesis.core.failures import AcceptedNegativeData


@functools.cache
def numbers(document):
    """The names of the members that are text and may be numbers, anywhere in a document: enums, and those of 64 bits."""
    document = json.loads(document)
    schemas, found, left = document["components"]["schemas"], set(), [document]
    while left:
        value = left.pop()
        left.extend(value.values() if isinstance(value, dict) else value if isinstance(value, list) else [])
        members = value.get("properties") if isinstance(value, dict) else None
        for name, schema in (members or {}).items():
            of = schemas.get(str(schema.get("$ref")).rpartition("/")[2], schema)
            found |= {name} if "enum" in of or of.get("format") in ["int64", "uint64"] else set()
    return found


def is_read_anyway(value, names):
    """Proto JSON reads null as nothing, wherever it stands, and numbers instead of an enum's names and of 64 bits."""
    if isinstance(value, dict):
        return any(type(of) is int and name in names or is_read_anyway(of, names) for name, of in value.items())
    return any(is_read_anyway(of, names) for of in value) if isinstance(value, list) else value is None


@schemathesis.hook
def filter_failure(context, failure, case, response):
    if not isinstance(failure, AcceptedNegativeData):
        return True
    return not is_read_anyway(case.body, numbers(json.dumps(case.operation.schema.raw_schema)))


@schemathesis.hook
def before_call(context, case, kwargs):
    # A poll that is held is as good after a moment.
    if isinstance(case.body, dict) and re.fullmatch(r"[0-9.]+s", str(case.body.get("wait"))):
        case.body["wait"] = "0.02s"
