"""Which collector calls are told to: our settings, else OpenTelemetry's own variables, which may be meant for others."""

from __future__ import annotations

import pytest

from mainstay.settings import BadSetting, read

STANDARD = "OTEL_EXPORTER_OTLP_ENDPOINT"


def test_opentelemetrys_own_variables_count_where_ours_are_not_set() -> None:
    found = read(
        {
            STANDARD: "http://collector:4318",
            "OTEL_EXPORTER_OTLP_HEADERS": "x-token=a",
            "OTEL_SEMCONV_STABILITY_OPT_IN": "http,gen_ai_latest_experimental/dup",
        }
    )
    assert (found.otlp_endpoint, found.otlp_headers) == ("http://collector:4318", "x-token=a")
    assert (found.otlp_protocol, found.otlp_names) == ("http/protobuf", "both")


@pytest.mark.parametrize(
    "variables",
    [
        {STANDARD: "http://collector:4317", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
        {STANDARD: "collector:4317"},
        {STANDARD: "http://[", "OTEL_EXPORTER_OTLP_HEADERS": "none"},
    ],
)
def test_those_that_are_not_for_us_are_left_alone(variables: dict[str, str]) -> None:
    assert read(variables).otlp_endpoint == ""


def test_headers_for_another_collector_do_not_go_to_ours() -> None:
    found = read(
        {
            "MAINSTAY_OTLP_ENDPOINT": "https://ours.example",
            STANDARD: "http://theirs",
            "OTEL_EXPORTER_OTLP_HEADERS": "authorization=theirs",
            "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc",
        }
    )
    assert (found.otlp_endpoint, found.otlp_headers, found.otlp_protocol) == (
        "https://ours.example",
        "",
        "http/protobuf",
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MAINSTAY_OTLP_ENDPOINT", "collector:4318"),
        ("MAINSTAY_OTLP_ENDPOINT", "https://user:secret@collector"),
        ("MAINSTAY_OTLP_PROTOCOL", "grpc"),
        ("MAINSTAY_OTLP_NAMES", "newest"),
        ("MAINSTAY_OTLP_HEADERS", "a-secret-alone"),
        ("MAINSTAY_OTLP_METRICS_SECONDS", "0"),
        ("MAINSTAY_SPANS_CONTENT", "perhaps"),
    ],
)
def test_a_mistake_in_ours_is_told_before_anything_starts(name: str, value: str) -> None:
    with pytest.raises(BadSetting) as refused:
        read({"MAINSTAY_OTLP_ENDPOINT": "http://collector", name: value})
    assert "secret" not in str(refused.value)
