"""Reads what /metrics answers, with the parser of Prometheus's own Python client, which is strict.

usage: read_metrics.py openmetrics|text < ANSWER

Prints one JSON object: every sample as `name{label="value",…}` (labels in order) with its value, and under "types" the
type of every family. Fails on anything that the format does not allow.
"""

import json
import sys

from prometheus_client import parser
from prometheus_client.openmetrics import parser as openmetrics_parser


def main():
    parsers = {
        "openmetrics": openmetrics_parser.text_string_to_metric_families,
        "text": parser.text_string_to_metric_families,
    }
    samples, types = {}, {}
    for family in parsers[sys.argv[1]](sys.stdin.read()):
        assert family.name not in types, f"{family.name} twice"
        assert family.documentation, f"{family.name} is not explained"
        types[family.name] = family.type
        for sample in family.samples:
            labels = ",".join(f'{name}="{value}"' for name, value in sorted(sample.labels.items()))
            name = f"{sample.name}{{{labels}}}" if labels else sample.name
            assert name not in samples, f"{name} twice"
            samples[name] = sample.value
    print(json.dumps({"samples": samples, "types": types}))


if __name__ == "__main__":
    main()
