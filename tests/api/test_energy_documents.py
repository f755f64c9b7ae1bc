"""The WIA-ENE-014 documents that the API answers, against the shipped JSON Schemas."""

from __future__ import annotations

from typing import Any

import pytest
from jsonschema import Draft202012Validator

from energy_cloud_dagster.domain import documents

from .conftest import Client

PATHS = ("/v1/energy/consumption", "/v1/energy/generation")
DAY = {"startDate": "2026-03-01T15:00:00Z", "endDate": "2026-03-02T15:00:00Z"}


def require_valid(document: dict[str, Any], kind: str) -> None:
    validator = Draft202012Validator(documents.schema(kind), format_checker=Draft202012Validator.FORMAT_CHECKER)
    assert [error.message for error in validator.iter_errors(document)] == []
    assert documents.kind_of(document) == kind
    assert documents.validate(document) == []


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("region", ["seoul", "busan"])
@pytest.mark.parametrize("aggregation", ["raw", "15min", "hourly", "daily"])
def test_a_region_s_energy_document_is_valid(operator: Client, path: str, region: str, aggregation: str) -> None:
    plain = operator.get(path, region=region, aggregation=aggregation, **DAY)
    assert plain.headers["content-type"] == "application/json"
    document = plain.json()
    require_valid(document, "energy")
    assert "phase" not in document
    assert None not in document["metadata"].values()
    assert operator.get(path, region=region, aggregation=aggregation, document="energy", **DAY).json() == document


def test_the_variant_of_phase_1_has_phase_and_quality(operator: Client) -> None:
    document = operator.get(PATHS[0], region="seoul", document="energy-phase-1", **DAY).json()
    require_valid(document, "energy")
    whole = operator.get(PATHS[0], region="seoul", **DAY).json()
    assert document["phase"] == 1
    total = whole["energyData"]["consumption"]["total"]
    # 23 of 47 readings of the meters came with quality medium; what the panels measured does not count.
    assert document["energyData"] == {"consumption": {"total": total, "unit": "kWh", "quality": "medium"}}
    assert document["metadata"] == whole["metadata"]
    nothing = operator.get(PATHS[0], region="busan", document="energy-phase-1", **DAY).json()
    require_valid(nothing, "energy")
    assert nothing["energyData"]["consumption"]["quality"] == "bad"


@pytest.mark.parametrize(
    ("path", "meter", "aggregation", "value"),
    [
        (PATHS[0], "SM-H01", "raw", 1.5),
        (PATHS[0], "SM-H01", "daily", 24.5),
        (PATHS[1], "WT-R80711", "raw", 100.0),
        (PATHS[1], "WT-R80711", "hourly", 600.0),
    ],
)
def test_a_meter_document_has_the_intervals_of_a_meter(
    operator: Client, path: str, meter: str, aggregation: str, value: float
) -> None:
    document = operator.get(path, meterId=meter, aggregation=aggregation, document="meter", **DAY).json()
    require_valid(document, "meter")
    plain = operator.get(path, meterId=meter, aggregation=aggregation, **DAY).json()["items"]
    assert [reading["timestamp"] for reading in document["readings"]] == [item["timestamp"] for item in plain]
    assert document["meterId"] == meter
    first = document["readings"][0]
    metric = path.rpartition("/")[2]
    assert (first["metric"], first["value"], first["unit"]) == (metric, value, "kWh")


def test_pages_of_a_meter_document_follow_one_another(operator: Client) -> None:
    query: dict[str, Any] = {"meterId": "SM-H01", "document": "meter", "limit": 10, **DAY}
    seen, cursor = [], None
    for _ in range(5):
        document = operator.get(PATHS[0], **query, **({"cursor": cursor} if cursor else {})).json()
        require_valid(document, "meter")
        seen += [reading["timestamp"] for reading in document["readings"]]
        cursor = document.get("nextCursor")
        if cursor is None:
            break
    assert len(seen) == len(set(seen)) == 24


def test_a_meter_document_without_readings_cannot_be(operator: Client) -> None:
    answer = operator.get(PATHS[0], meterId="SM-TEST-001", document="meter", **DAY)
    assert answer.status_code == 404


@pytest.mark.parametrize(
    "query",
    [
        {"document": "meter"},
        {"document": "meter", "region": "seoul"},
        {"document": "energy"},
        {"document": "energy", "meterId": "SM-H01"},
        {"document": "energy-phase-1", "region": "seoul", "meterId": "SM-H01"},
        {"document": "vpp", "region": "seoul"},
    ],
    ids=str,
)
def test_a_document_of_the_wrong_thing_is_pointed_at(operator: Client, query: dict[str, str]) -> None:
    answer = operator.get(PATHS[0], **query)
    assert answer.status_code == 422
    assert [(fault["pointer"], fault["in"]) for fault in answer.json()["errors"]] == [("/document", "query")]
