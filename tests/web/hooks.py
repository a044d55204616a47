"""What the fuzzer finds and is no fault."""

import functools
import json
import re

import schemathesis
from schemathesis.core.failures import AcceptedNegativeData


@functools.cache
def numbers(document):
    """The names of members and variables that are text and may be numbers, anywhere in a document: enums, and those of 64
    bits."""
    document = json.loads(document)
    schemas, found, left = document["components"]["schemas"], set(), [document]
    while left:
        value = left.pop()
        left.extend(value.values() if isinstance(value, dict) else value if isinstance(value, list) else [])
        members = dict(value.get("properties") or {}) if isinstance(value, dict) else {}
        if isinstance(value, dict) and value.get("in") == "query":
            members[value["name"]] = value["schema"].get("items", value["schema"])
        for name, schema in members.items():
            of = schemas.get(str(schema.get("$ref")).rpartition("/")[2], schema)
            found |= {name} if "enum" in of or of.get("format") in ["int64", "uint64"] else set()
    return found


def is_number(value):
    """Also as a variable has it, or several."""
    if isinstance(value, list):
        return any(is_number(of) for of in value)
    return type(value) is int or isinstance(value, str) and re.fullmatch(r"-?[0-9]+", value) is not None


def is_read_anyway(value, names):
    """Proto JSON reads null as nothing, wherever it stands, and numbers instead of an enum's names and of 64 bits."""
    if isinstance(value, dict):
        return any(is_number(of) and name in names or is_read_anyway(of, names) for name, of in value.items())
    return any(is_read_anyway(of, names) for of in value) if isinstance(value, list) else value is None


@schemathesis.hook
def filter_failure(context, failure, case, response):
    if not isinstance(failure, AcceptedNegativeData):
        return True
    names = numbers(json.dumps(case.operation.schema.raw_schema))
    return not is_read_anyway(case.body, names) and not is_read_anyway(case.query or {}, names)


@schemathesis.hook
def before_call(context, case, kwargs):
    # A poll that is held is as good after a moment.
    if isinstance(case.body, dict) and re.fullmatch(r"[0-9.]+s", str(case.body.get("wait"))):
        case.body["wait"] = "0.02s"
