"""Reads an ExportTraceServiceRequest as JSON from its input by OpenTelemetry's own messages, strictly, and writes its
spans as a list of JSON. What the schema does not have is an error."""

import base64
import json
import sys

from google.protobuf.json_format import ParseDict
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

IDS = {"traceId": 16, "spanId": 8, "parentSpanId": 8}


def with_base64(value):
    """OTLP's JSON has ids as hexadecimal digits, which the reader of protobuf's JSON takes for Base64 silently."""
    if isinstance(value, list):
        return [with_base64(item) for item in value]
    if not isinstance(value, dict):
        return value
    read = {}
    for key, item in value.items():
        if key in IDS:
            raw = bytes.fromhex(item)
            assert len(raw) == IDS[key] and any(raw) and item == raw.hex(), f"{key} is {item}"
            read[key] = base64.b64encode(raw).decode()
        else:
            read[key] = with_base64(item)
    return read


request = ParseDict(with_base64(json.load(sys.stdin.buffer)), ExportTraceServiceRequest(), ignore_unknown_fields=False)
spans = [
    {
        "trace": span.trace_id.hex(),
        "id": span.span_id.hex(),
        "parent": span.parent_span_id.hex(),
        "name": span.name,
        "start": str(span.start_time_unix_nano),
        "end": str(span.end_time_unix_nano),
        "status": span.status.code,
        "message": span.status.message,
        "events": [event.name for event in span.events],
    }
    for resource in request.resource_spans
    for scope in resource.scope_spans
    for span in scope.spans
]
json.dump(spans, sys.stdout)
