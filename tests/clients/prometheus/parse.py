"""Reads /metrics in both formats with Prometheus' own client library, and says what is in them as JSON."""

import json
import sys
import urllib.request

from prometheus_client import parser
from prometheus_client.openmetrics import parser as openmetrics


def scrape(accept):
    request = urllib.request.Request(sys.argv[1], headers={"Accept": accept})
    with urllib.request.urlopen(request) as response:
        return response.headers["Content-Type"], response.read().decode()


def families(read, text):
    return {
        sample.name + json.dumps(sample.labels, sort_keys=True): [family.type, sample.value]
        for family in read(text)
        for sample in family.samples
    }


kinds, read = {}, {}
for name, accept, reader in [
    ("openmetrics", "application/openmetrics-text; version=1.0.0", openmetrics.text_string_to_metric_families),
    ("text", "text/plain", parser.text_string_to_metric_families),
]:
    kinds[name], text = scrape(accept)
    read[name] = families(reader, text)
# An info is a gauge to the older format; all else is the same, but for what moved meanwhile.
differs = sorted(
    name
    for name in read["openmetrics"].keys() ^ read["text"].keys()
    | {name for name, (kind, _) in read["openmetrics"].items() if read["text"].get(name, [""])[0] != kind}
)
print(json.dumps({"kinds": kinds, "differs": differs, "samples": read["openmetrics"]}))
