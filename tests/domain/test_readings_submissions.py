"""What callers post, whatever it is, comes to measurements or to faults with a place in the body."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from energy_cloud_dagster.domain import documents
from energy_cloud_dagster.domain.errors import Rejected
from energy_cloud_dagster.domain.readings.measurements import MOST_ELEMENTS, new_series, pointer_of
from energy_cloud_dagster.domain.readings.submissions import Submission, read_submission

RECORD = {"meterId": "SM-001", "timestamp": "2026-03-01T00:00:00Z", "consumption": 1.5}

scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
anything = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
)
names = st.sampled_from([*RECORD, "voltage", "current", "powerFactor", "quality", "metadata", "standard", "readings"])
nearly_records = st.dictionaries(names, anything, max_size=4).map(lambda change: RECORD | change)
nearly_documents = st.tuples(
    st.sampled_from(documents.EXAMPLE_KINDS),
    st.sampled_from(["standard", "meterId", "timestamp", "readings", "energyData", "metadata", "vppId"]),
    anything,
).map(lambda parts: documents.example(parts[0]) | {parts[1]: parts[2]})


def read(body: bytes) -> tuple[Submission | None, str]:
    """What a body came to, or the reason for which it came to nothing."""
    try:
        return read_submission(body), ""
    except Rejected as fault:
        return None, fault.reason


def resolves(document: Any, pointer: str) -> bool:
    """Whether a JSON pointer leads to a member, or to one that is missing from an object that is there."""
    for step in pointer.split("/")[1:]:
        name = step.replace("~1", "/").replace("~0", "~")
        if isinstance(document, list):
            document = document[int(name)]
        elif isinstance(document, dict):
            document = document.get(name)
        else:
            return False
    return True


@example(documents.example("energy-phase-1") | {"meterId": None})
@settings(max_examples=100, deadline=None)
@given(anything | nearly_records | nearly_documents | st.lists(nearly_records, max_size=3))
def test_any_json_comes_to_measurements_or_to_faults_that_are_there(document: Any) -> None:
    body = json.dumps(document).encode()
    found, refusal = read(body)
    if found is None:
        assert refusal == "bad_json"
        return
    assert found.measurements or found.faults
    for fault in found.faults:
        assert fault.detail
        assert resolves(document, fault.pointer), fault.pointer
    for each in found.measurements:
        assert resolves(document, each.place + each.field)
        assert resolves(document, found.device_pointer(each))


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=40) | st.text(max_size=40).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_any_bytes_are_a_submission_or_no_json(body: bytes) -> None:
    found, refusal = read(body)
    assert found is not None or refusal == "bad_json"


def test_a_record_has_a_measurement_for_each_of_its_values() -> None:
    record = RECORD | {"voltage": "230", "current": None, "powerFactor": 0.9, "quality": "low"}
    found = read_submission(json.dumps([RECORD, record]).encode())
    assert [(each.metric, each.payload.unit, each.place, each.field) for each in found.measurements] == [
        ("consumption", "kWh", "/0", "/consumption"),
        ("consumption", "kWh", "/1", "/consumption"),
        ("voltage", "V", "/1", "/voltage"),
        ("power-factor", "1", "/1", "/powerFactor"),
    ]
    assert {each.payload.quality for each in found.measurements[1:]} == {"low"}


def test_too_long_a_meter_document_is_refused() -> None:
    document = documents.example("meter")
    document["readings"] = document["readings"][:1] * (MOST_ELEMENTS + 1)
    (fault,) = read_submission(json.dumps(document).encode()).faults
    assert (fault.reason, fault.pointer) == ("too_many", "/readings")
    document = documents.example("energy")
    document["energyData"]["consumption"]["breakdown"] = {f"class-{n}": 0 for n in range(MOST_ELEMENTS)}
    (fault,) = read_submission(json.dumps(document).encode()).faults
    assert fault.reason == "too_many"


@pytest.mark.parametrize(
    ("member", "own", "device", "metric", "grid"),
    [
        (None, None, "KR-SE-001", "region-consumption", "KR-SE-001"),
        (None, "SM-001", "SM-001", "consumption", None),
        ("SM-002", None, "SM-002", "consumption", None),
        ("SM-002", "SM-001", "SM-002", "consumption", None),
    ],
)
def test_whom_an_energy_document_speaks_of(
    member: str | None, own: str | None, device: str, metric: str, grid: str | None
) -> None:
    document = documents.example("energy") | ({} if member is None else {"meterId": member})
    found = read_submission(json.dumps(document).encode(), own_device=own)
    assert (found.measurements[0].device_id, found.measurements[0].metric, found.grid_id) == (device, metric, grid)


def test_what_is_in_a_store_is_a_state() -> None:
    found = read_submission(json.dumps(documents.example("energy")).encode())
    kinds = {each.metric: new_series(each) for each in found.measurements}
    assert kinds["region-consumption"] == ("kWh", "energy")
    assert kinds["region-storage"] == ("kWh", "state")


def test_pointers_are_escaped() -> None:
    assert pointer_of(["a/b", 0, "c~d"]) == "/a~1b/0/c~0d"
