"""Judges the OpenAPI document of a server: by a public validator, and by its own examples.

    document.py URL
"""

import json
import sys
import urllib.error
import urllib.parse
import urllib.request

from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator

# What examples name and none of them makes.
GIVEN = [
    ("/v1/namespaces/default/backends", {"name": "green", "service": "web", "version": "2.2.0"}),
    ("/v1/namespaces/default/applications", {"id": "shop-db", "service": "postgresql"}),
    # It is drained; what others look for takes traffic.
    ("/v1/namespaces/default/services/web/instances", {"instance": {"id": "web-2", "port": 8001}}),
]
METHODS = ["put", "post", "patch", "get", "delete"]  # what is registered is found, and then taken away


def ask(method, url, body, accept):
    """Status, media type and body of an answer; of a stream, its first piece."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data=data, method=method, headers={"Accept": accept})
    if data is not None:
        request.add_header("Content-Type", "application/json")
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            kind = answer.headers.get_content_type()
            return answer.status, kind, answer.read1() if kind == "text/event-stream" else answer.read()
    except urllib.error.HTTPError as refused:
        return refused.code, refused.headers.get_content_type(), refused.read()


def judge(document, schema, value, what):
    """Whether a value is what a schema of the document says."""
    whole = {**schema, "components": document["components"]}
    for error in Draft202012Validator(whole).iter_errors(value):
        sys.exit(f"{what}: {error.json_path}: {error.message[:500]}")


def target(path, operation):
    """The path with the examples of what has to be given."""
    query = {}
    for parameter in operation.get("parameters", []):
        if "example" in parameter:
            if parameter["in"] == "path":
                value = urllib.parse.quote(str(parameter["example"]), safe="")
                path = path.replace("{%s}" % parameter["name"], value)
            elif parameter["required"]:
                value = parameter["example"]
                texts = value if isinstance(value, list) else [value]
                query[parameter["name"]] = [text if isinstance(text, str) else json.dumps(text) for text in texts]
    return path + ("?" + urllib.parse.urlencode(query, doseq=True) if query else "")


def judge_operation(server, document, path, method, operation):
    """Whether its examples are what they should be, and work; how many were run. None if another has to come before."""
    name = operation["operationId"]
    for parameter in operation.get("parameters", []):
        if "example" in parameter:
            judge(document, parameter["schema"], parameter["example"], f"{name}: {parameter['name']}")
    sent = None
    for media in operation.get("requestBody", {}).get("content", {}).values():
        sent = media["example"]
        judge(document, media["schema"], sent, f"{name}: the example of its body")
    content = operation["responses"]["200"]["content"]
    for accept, media in content.items():
        if "example" in media:
            judge(document, media["schema"], media["example"], f"{name}: the example of its answer")
        status, kind, body = ask(method.upper(), server + target(path, operation), sent, accept)
        if 400 <= status < 500 and json.loads(body)["code"] == "FAILED_PRECONDITION":
            return None
        assert (status, kind) == (200, accept), f"{name}: {status} {kind} {body[:500]}"
        if accept == "application/json":
            judge(document, media["schema"], json.loads(body), f"{name}: its answer")
    return len(content)


def main():
    server = sys.argv[1]
    status, kind, body = ask("GET", server + "/v1/openapi.json", None, "application/json")
    assert (status, kind) == (200, "application/json"), (status, kind)
    document = json.loads(body)
    faults = list(OpenAPIV31SpecValidator(document).iter_errors())
    assert not faults, faults
    for path, body in GIVEN:
        status, _, said = ask("POST", server + path, body, "application/json")
        assert status == 200, said
    operations = ran = 0
    for method in METHODS:
        left = [(path, methods[method]) for path, methods in document["paths"].items() if method in methods]
        operations += len(left)
        while left:
            now, left = left, []
            for path, operation in now:
                examples = judge_operation(server, document, path, method, operation)
                if examples is None:
                    left.append((path, operation))
                ran += examples or 0
            assert len(left) < len(now), f"each of these is to come after another: {[path for path, _ in left]}"
    of_document = sum(map(len, document["paths"].values()))
    assert operations == of_document, f"{operations} of {of_document} are of {METHODS}"
    print(f"{operations} operations, {ran} examples ran")


main()
