"""Consumption, generation and forecasts over HTTP, against sums made by hand."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from energy_cloud_dagster.domain import documents

from .conftest import HOUR, T0, Client

BACKTEST = {"hours": 672, "mape": 2.5, "mae": 12.0, "rmse": 15.0, "mase": 0.3, "bias": 1.0, "pinball": 4.0}
NAIVE = {"hours": 672, "mape": 8.0, "mae": 40.0, "rmse": 50.0, "mase": 1.0, "bias": 0.0, "pinball": 13.0}
DAY = {"startDate": "2026-03-01T15:00:00Z", "endDate": "2026-03-02T15:00:00Z"}


def test_raw_readings_of_a_meter_are_its_latest_revisions(operator: Client) -> None:
    answer = operator.get("/v1/energy/consumption", meterId="SM-H01", **DAY)
    assert answer.status_code == 200
    page = answer.json()
    assert page["nextCursor"] is None
    assert len(page["items"]) == 24
    assert page["items"][0] == {
        "meterId": "SM-H01",
        "timestamp": "2026-03-01T15:00:00Z",
        "intervalMinutes": 60,
        "consumption": 1.5,
        "unit": "kWh",
        "quality": "high",
        "readings": 1,
        "revision": 2,
        "receivedAt": "2026-03-02T16:00:00Z",
    }


def test_as_of_answers_with_what_was_known_then(operator: Client) -> None:
    before = operator.get("/v1/energy/consumption", meterId="SM-H01", asOf="2026-03-01T17:30:00Z", **DAY).json()[
        "items"
    ]
    assert [(item["timestamp"], item["consumption"], item["revision"]) for item in before] == [
        ("2026-03-01T15:00:00Z", 1.0, 1),
        ("2026-03-01T16:00:00Z", 1.0, 1),
    ]


@pytest.mark.parametrize(
    "start",
    [
        "2026-03-02T00:00:00+09:00",
        "2026-03-01T15:00:00.000Z",
        str(int(T0.timestamp())),
        str(int(T0.timestamp() * 1000)),
    ],
)
def test_moments_may_have_any_offset_or_be_epochs(operator: Client, start: str) -> None:
    answer = operator.get("/v1/energy/consumption", meterId="SM-H01", startDate=start, endDate=DAY["endDate"])
    assert len(answer.json()["items"]) == 24


def test_a_plus_that_the_url_made_a_space_is_still_a_plus(operator: Client) -> None:
    path = "/v1/energy/consumption?meterId=SM-H01&startDate=2026-03-02T00:00:00+09:00&endDate=2026-03-02T15:00:00Z"
    assert len(operator.get(path).json()["items"]) == 24


def test_power_is_answered_as_energy(operator: Client) -> None:
    page = operator.get("/v1/energy/generation", meterId="WT-R80711", limit=2, **DAY).json()
    first = page["items"][0]
    assert (first["generation"], first["unit"], first["intervalMinutes"], first["source"]) == (100.0, "kWh", 10, "wind")
    hourly = operator.get("/v1/energy/generation", meterId="WT-R80711", aggregation="hourly", **DAY).json()["items"]
    assert {item["generation"] for item in hourly} == {600.0}
    assert len(hourly) == 24


@pytest.mark.parametrize(
    ("aggregation", "stamps", "total"),
    [("15min", 24, 1.5), ("hourly", 24, 1.5), ("daily", 1, 24.5)],
)
def test_buckets_sum_what_starts_in_them(operator: Client, aggregation: str, stamps: int, total: float) -> None:
    items = operator.get("/v1/energy/consumption", meterId="SM-H01", aggregation=aggregation, **DAY).json()["items"]
    assert len(items) == stamps
    assert items[0]["timestamp"] == "2026-03-01T15:00:00Z"
    assert items[0]["consumption"] == pytest.approx(total)
    assert items[0]["revision"] is None


def test_days_are_those_of_the_region(operator: Client) -> None:
    items = operator.get(
        "/v1/energy/consumption",
        meterId="SM-H01",
        aggregation="daily",
        startDate="2026-03-01T00:00:00Z",
        endDate="2026-03-03T00:00:00Z",
    ).json()["items"]
    assert [item["timestamp"] for item in items] == ["2026-03-01T15:00:00Z"]


@pytest.mark.parametrize("aggregation", ["raw", "hourly"])
def test_pages_follow_one_another_without_gap_or_overlap(operator: Client, aggregation: str) -> None:
    query: dict[str, Any] = {"aggregation": aggregation, "limit": 7, **DAY}
    seen, cursor = [], None
    for _ in range(40):
        page = operator.get("/v1/energy/consumption", **query, **({"cursor": cursor} if cursor else {})).json()
        seen += [(item["timestamp"], item["meterId"]) for item in page["items"]]
        cursor = page["nextCursor"]
        if cursor is None:
            break
    whole = operator.get("/v1/energy/consumption", **(query | {"limit": 1000})).json()["items"]
    assert seen == [(item["timestamp"], item["meterId"]) for item in whole]
    assert len(set(seen)) == len(seen) == (48 if aggregation == "raw" else 47)


def test_without_dates_the_last_day_known_is_answered(operator: Client) -> None:
    items = operator.get("/v1/energy/consumption", meterId="SM-H01").json()["items"]
    assert len(items) == 24


def test_a_region_is_answered_as_an_energy_document(operator: Client) -> None:
    document = operator.get("/v1/energy/consumption", region="kr-seoul", **DAY).json()
    assert documents.validate(document, "energy") == []
    assert document["standard"] == "WIA-ENE-014"
    assert document["version"] == "1.0"
    assert document["timestamp"] == "2026-03-01T15:00:00Z"
    consumed = 24.5 + 46.0
    assert document["energyData"]["consumption"] == {
        "total": consumed,
        "unit": "kWh",
        "breakdown": {"residential": consumed, "commercial": 0.0, "industrial": 0.0},
    }
    assert document["energyData"]["generation"] == {
        "total": 24 * (0.25 + 100.0 + 600.0),
        "unit": "kWh",
        "sources": {"solar": 24 * 100.25, "wind": 24 * 600.0, "hydro": 0.0, "grid": 0.0},
    }
    assert document["energyData"]["storage"] == {
        "capacity": 1000.0,
        "current": 730.0,
        "unit": "kWh",
        "status": "charging",
    }
    metadata = document["metadata"]
    assert (metadata["location"], metadata["gridId"], metadata["quality"]) == ("Seoul", "KR-SE-001", "medium")
    # Expected: 10 meters and 11 panels hourly, 2 turbines by ten minutes, the battery by quarters.
    expected = 24 * (21 + 12 + 4)
    came = 24 * (1 + 1 + 1 + 6 + 4) + 23
    assert metadata["confidence"] == pytest.approx(came / expected)
    assert "intervals" not in document


def test_a_region_s_buckets_come_with_the_document(operator: Client) -> None:
    document = operator.get("/v1/energy/consumption", region="Seoul", aggregation="hourly", **DAY).json()
    assert [item["total"] for item in document["intervals"]] == [3.5, *[3.0] * 22, 1.0]
    assert operator.get("/v1/energy/generation", region="seoul", aggregation="daily", **DAY).json()["intervals"] == [
        {"timestamp": "2026-03-01T15:00:00Z", "total": 24 * 700.25}
    ]


def test_a_region_at_night_lives_off_the_grid(operator: Client) -> None:
    known = (T0 + timedelta(minutes=61)).isoformat()
    document = operator.get("/v1/energy/consumption", region="busan", asOf=known, **DAY).json()
    assert document["energyData"]["consumption"]["total"] == 0
    assert document["metadata"]["confidence"] == 0
    assert document["metadata"]["quality"] == "bad"
    assert document["energyData"]["storage"]["status"] == "idle"


def test_grid_is_what_local_generation_does_not_cover(operator: Client) -> None:
    # In the quarter before the turbine and panel intervals of the next hour start, only the meters of the hour count.
    document = operator.get(
        "/v1/energy/consumption", region="seoul", startDate="2026-03-01T15:00:00Z", endDate="2026-03-01T15:00:01Z"
    ).json()
    sources = document["energyData"]["generation"]["sources"]
    assert sources["grid"] == 0.0
    assert sources["wind"] == 100.0


def test_quarantined_readings_count_in_no_sum_but_stay_visible(operator: Client) -> None:
    assert operator.get("/v1/energy/consumption", meterId="SM-001", aggregation="hourly", **DAY).json()["items"] == []
    raw = operator.get("/v1/energy/consumption", meterId="SM-001", **DAY).json()["items"]
    assert [item["consumption"] for item in raw] == [9999.0]


def test_a_trader_sees_its_own_meters_and_cannot_tell_whether_others_exist(trader: Client) -> None:
    assert len(trader.get("/v1/energy/consumption", meterId="SM-H01", **DAY).json()["items"]) == 24
    other = trader.get("/v1/energy/consumption", meterId="SM-H02", **DAY)
    ghost = trader.get("/v1/energy/consumption", meterId="SM-H99", **DAY)
    assert other.status_code == ghost.status_code == 404
    assert other.text.replace("SM-H02", "?") == ghost.text.replace("SM-H99", "?")
    seen = {item["meterId"] for item in trader.get("/v1/energy/consumption", **DAY).json()["items"]}
    assert seen == {"SM-H01", "SM-001"}


@pytest.mark.parametrize(
    ("query", "pointer"),
    [
        ({"limit": 0}, "/limit"),
        ({"limit": 1001}, "/limit"),
        ({"limit": "many"}, "/limit"),
        ({"cursor": "!"}, "/cursor"),
        ({"cursor": "WyJhIl0"}, "/cursor"),
        ({"cursor": "WzEsMl0"}, "/cursor"),
        ({"startDate": "2026-03-01"}, "/startDate"),
        ({"startDate": "2026-03-01T00:00:00"}, "/startDate"),
        ({"startDate": "yesterday"}, "/startDate"),
        ({"startDate": "99999999999999999999"}, "/startDate"),
        ({"startDate": "0001-01-01T00:00:00+09:00"}, "/startDate"),
        ({"startDate": DAY["endDate"], "endDate": DAY["startDate"]}, "/endDate"),
        ({"aggregation": "weekly"}, "/aggregation"),
        ({"asOf": "now"}, "/asOf"),
    ],
    ids=str,
)
def test_faults_of_a_query_are_pointed_at(operator: Client, query: dict[str, Any], pointer: str) -> None:
    answer = operator.get("/v1/energy/consumption", **query)
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["type"] == "urn:energy-cloud:problem:invalid-input"
    assert [(fault["pointer"], fault["in"]) for fault in problem["errors"]] == [(pointer, "query")]
    assert problem["errors"][0]["detail"]


def test_an_unknown_region_names_the_known_ones(operator: Client) -> None:
    answer = operator.get("/v1/energy/consumption", region="atlantis")
    assert answer.status_code == 404
    assert "busan, seoul" in answer.json()["detail"]


@pytest.mark.parametrize("location", ["seoul", "kr-seoul", "Seoul"])
def test_the_newest_chosen_forecast_is_answered(viewer: Client, location: str) -> None:
    answer = viewer.post("/v1/energy/forecast", {"horizon": 3, "location": location})
    assert answer.status_code == 200
    assert answer.json() == {
        "location": "seoul",
        "issuedAt": "2026-03-02T15:00:00Z",
        "model": "prophet",
        "rung": "champion",
        "accuracy": {
            **BACKTEST,
            "coverage": 79.0,
            "baseline": {**NAIVE, "coverage": 80.0},
            "published": {
                **dict.fromkeys(BACKTEST),
                "days": 2,
                "hours": 36,
                "mape": 3.0,
                "mase": 0.3,
                "coverage": pytest.approx(83.333333333),
                "baseline": {**dict.fromkeys(NAIVE), "hours": 24, "mape": 8.0, "mase": 1.0, "coverage": None},
            },
        },
        "unit": "kWh",
        "points": [
            {"timestamp": f"2026-03-02T{15 + ahead}:00:00Z", "p10": 550.0, "p50": 600.0 + ahead, "p90": 650.0}
            for ahead in range(3)
        ],
    }


def test_a_forecast_as_of_an_earlier_time_is_the_earlier_one(viewer: Client) -> None:
    wanted = {"location": "seoul", "asOf": (T0 + 23.5 * HOUR).isoformat()}
    document = viewer.post("/v1/energy/forecast", wanted).json()
    assert document["issuedAt"] == "2026-03-02T14:00:00Z"
    assert document["accuracy"]["mape"] == 4.9, "before the first selection the fit's own metrics are all there is"
    assert document["accuracy"]["coverage"] is None
    assert "baseline" not in document["accuracy"]
    assert len(document["points"]) == 24
    wanted["asOf"] = int(T0.timestamp())
    assert viewer.post("/v1/energy/forecast", wanted).status_code == 404


@pytest.mark.parametrize(
    ("document", "status"),
    [
        ({"location": "atlantis"}, 404),
        ({"location": "busan"}, 404),
        ({}, 422),
        ({"location": "seoul", "horizon": 0}, 422),
        ({"location": "seoul", "horizon": 169}, 422),
        ({"location": "seoul", "asOf": True}, 422),
        ({"location": "seoul", "surprise": 1}, 422),
        ([], 422),
    ],
)
def test_a_forecast_that_cannot_be_is_refused(viewer: Client, document: Any, status: int) -> None:
    assert viewer.post("/v1/energy/forecast", document).status_code == status
