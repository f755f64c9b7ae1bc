from __future__ import annotations

import copy
import json
from importlib.resources import files
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from energy_cloud_dagster.domain import documents
from energy_cloud_dagster.domain.errors import NotFound

SHIPPED = files("energy_cloud_dagster.domain.documents") / "schemas"


@pytest.mark.parametrize("kind", documents.KINDS)
def test_shipped_schemas_are_those_of_the_models(kind: str) -> None:
    shipped = (SHIPPED / f"{kind}.json").read_text(encoding="utf-8")
    assert shipped == documents.as_text(documents.schema(kind)), (
        f"run `energy-cloud schema show {kind} > energy_cloud_dagster/domain/documents/schemas/{kind}.json`"
    )
    Draft202012Validator.check_schema(json.loads(shipped))


@pytest.mark.parametrize("kind", documents.EXAMPLE_KINDS)
def test_examples_conform_by_the_models_and_by_the_schemas(kind: str) -> None:
    document = documents.example(kind)
    assert documents.validate(document) == []
    found = documents.kind_of(document)
    assert found is not None
    Draft202012Validator(documents.schema(found)).validate(document)
    document.clear()
    assert documents.example(kind)


def changed(kind: str, path: list[str | int], value: object) -> dict[str, Any]:
    document = copy.deepcopy(documents.example(kind))
    place: Any = document
    for part in path[:-1]:
        place = place[part]
    if value is ...:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return document


@pytest.mark.parametrize(
    ("kind", "path", "value", "fault"),
    [
        ("energy", ["standard"], "WIA-ENE-013", "$.standard"),
        ("energy", ["timestamp"], "2025-12-25T10:30:00", "$.timestamp"),
        ("energy", ["timestamp"], 1766658600, "$.timestamp"),
        ("energy", ["energyData", "consumption"], ..., "$.energyData.consumption"),
        ("energy", ["energyData", "consumption", "total"], "1250.5", "$.energyData.consumption.total"),
        ("energy", ["energyData", "consumption", "unit"], "MWh", "$.energyData.consumption.unit"),
        (
            "energy",
            ["energyData", "consumption", "breakdown", "light industry"],
            -1,
            '$.energyData.consumption.breakdown["light industry"]',
        ),
        ("energy", ["energyData", "generation", "total"], float("nan"), "$.energyData.generation.total"),
        ("energy", ["energyData", "storage", "status"], "exploding", "$.energyData.storage.status"),
        ("energy", ["metadata", "confidence"], 1.5, "$.metadata.confidence"),
        ("energy-phase-1", ["phase"], 2, "$.phase"),
        ("vpp", ["unit"], "MW", "$.unit"),
        ("vpp", ["resources", 1, "type"], "coal", "$.resources[1].type"),
        ("vpp", ["resources", 2, "soc"], 67, "$.resources[2].soc"),
        ("vpp", ["resources", 0, "location", "lat"], 137, "$.resources[0].location.lat"),
        ("meter", ["readings"], [], "$.readings"),
        ("meter", ["readings", 0, "unit"], "furlong", "$.readings[0].unit"),
        ("meter", ["version"], ..., "$.version"),
        ("meter", ["meterId"], "", "$.meterId"),
    ],
)
def test_a_fault_is_named_by_its_path(kind: str, path: list[str | int], value: object, fault: str) -> None:
    document = changed(kind, path, value)
    found = documents.validate(document)
    assert [where for where, _ in found] == [fault]
    assert found[0][1]
    form = documents.kind_of(document)
    assert form is not None
    # JSON Schema leaves formats and NaN to the reader; everything else it finds too.
    if value != "2025-12-25T10:30:00" and value == value:  # noqa: PLR0124
        assert not Draft202012Validator(documents.schema(form)).is_valid(document)


def test_every_fault_is_reported() -> None:
    document = changed("meter", ["readings", 0, "unit"], "furlong")
    document["readings"][1]["value"] = None
    del document["timestamp"]
    assert [where for where, _ in documents.validate(document)] == [
        "$.timestamp",
        "$.readings[0].unit",
        "$.readings[1].value",
    ]


def test_what_the_standard_does_not_name_is_allowed() -> None:
    assert documents.validate(documents.example("vpp") | {"id": "VPP-KR-001", "owner": {"name": "x"}}) == []


@pytest.mark.parametrize("data", [None, 3, "x", [], {}, {"standard": "WIA-ENE-014"}])
def test_something_else_is_no_document(data: object) -> None:
    ((where, message),) = documents.validate(data)
    assert where == "$"
    assert "energyData, vppId, meterId" in message


def test_a_kind_can_be_asked_for() -> None:
    assert ("$.meterId", "Field required") in documents.validate(documents.example("energy"), "meter")
    for ask in (documents.schema, documents.example, lambda kind: documents.validate({}, kind)):
        with pytest.raises(NotFound, match="energy, "):
            ask("poem")


@settings(max_examples=60, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
        max_leaves=8,
    ),
    st.sampled_from(documents.KINDS),
)
def test_any_json_gets_a_verdict(data: object, kind: str) -> None:
    assert all(where.startswith("$") and message for where, message in documents.validate(data, kind))
