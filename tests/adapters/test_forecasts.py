"""What was fitted, chosen, issued and scored: each as known at a moment."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import pytest
import sqlalchemy as sa

from energy_cloud_dagster.adapters import forecasts
from energy_cloud_dagster.adapters.forecasts import DayAccuracy, IssuedPoint, Selection, StoredModel

HOUR = timedelta(hours=1)
NOW = datetime(2026, 4, 2, 0, 5, tzinfo=UTC)
KEY = "region/atlantis/load"


def chosen(at: datetime, champion: str = "ensemble", **document: object) -> Selection:
    return Selection(KEY, at, champion, dict(document))


def points(at: datetime, model: str, *, selected: bool) -> list[IssuedPoint]:
    first = at.replace(minute=0)
    return [IssuedPoint(KEY, at, model, first + step * HOUR, 1.0, 2.0, 3.0, selected, "champion") for step in range(3)]


def score(
    day: date, model: str, hours: int, mape: float | None, at: datetime = NOW, lead: str = "day_ahead"
) -> DayAccuracy:
    return DayAccuracy(
        KEY, day, lead, model, hours, mape, 1.0, 1.0, 0.5, 0.0, 0.3, 0.8, {"ensemble (champion)": hours}, at
    )


def test_a_selection_serves_what_is_issued_after_it_and_not_the_issue_of_its_own_moment(
    connection: sa.Connection,
) -> None:
    for row in (chosen(NOW - 24 * HOUR, "prophet"), chosen(NOW)):
        forecasts.save_selection(connection, row)
    assert forecasts.newest_selection(connection, KEY, NOW - 24 * HOUR) is None
    found = [forecasts.newest_selection(connection, KEY, moment) for moment in (NOW, NOW + timedelta(seconds=1))]
    assert [one.champion for one in found if one] == ["prophet", "ensemble"]
    assert forecasts.newest_selection(connection, "region/other/load", NOW + HOUR) is None


def test_deciding_again_for_the_same_moment_replaces(connection: sa.Connection) -> None:
    forecasts.save_selection(connection, chosen(NOW, "prophet", scores={}))
    forecasts.save_selection(connection, chosen(NOW, "lstm", scores={"lstm": {"mase": 0.4}}))
    assert forecasts.selections(connection, KEY, NOW, NOW) == [chosen(NOW, "lstm", scores={"lstm": {"mase": 0.4}})]


def test_the_models_of_a_fit_come_back_as_they_were_saved(connection: sa.Connection) -> None:
    rows = [
        StoredModel(KEY, name, at, NOW - 100 * HOUR, NOW, f"{{{name}}}", name, {"mase": 0.1})
        for at in (NOW, NOW + HOUR)
        for name in ("lstm", "prophet")
    ]
    for row in rows:
        forecasts.save_model(connection, row)
    assert forecasts.models_of(connection, KEY, NOW) == rows[:2]
    assert forecasts.models_of(connection, KEY, NOW - HOUR) == []


def test_accuracy_is_that_of_the_newest_backtest_before_the_issue(connection: sa.Connection) -> None:
    own = StoredModel(KEY, "prophet", NOW - 48 * HOUR, NOW, NOW, "{}", "00", {"mase": 0.9})
    forecasts.save_model(connection, own)
    assert forecasts.accuracy(connection, KEY, "prophet", NOW) == {"mase": 0.9}, "a fit older than any selection"
    naive = {"mase": 1.0}
    for at, mase in ((NOW - 24 * HOUR, 0.5), (NOW, 0.4)):
        scores = {"prophet": {"mase": mase}, "seasonal_naive": naive}
        forecasts.save_selection(connection, chosen(at, "prophet", scores=scores))
    assert forecasts.accuracy(connection, KEY, "prophet", NOW) == {"mase": 0.5, "baseline": naive}
    assert forecasts.accuracy(connection, KEY, "prophet", NOW + HOUR) == {"mase": 0.4, "baseline": naive}
    assert forecasts.accuracy(connection, KEY, "persistence", NOW) is None, "nobody judged the last rung"


def test_issues_are_found_by_their_moments(connection: sa.Connection) -> None:
    every = {
        at: [
            *points(at, "ensemble", selected=True),
            *points(at, "prophet", selected=False),
            *points(at, "seasonal_naive", selected=False),
        ]
        for at in (NOW, NOW + HOUR, NOW + 2 * HOUR)
    }
    for at, rows in every.items():
        forecasts.replace_points(connection, KEY, at, rows)
    assert (
        forecasts.issues_at(connection, KEY, {NOW, NOW + 2 * HOUR, NOW + 9 * HOUR})
        == every[NOW] + every[NOW + 2 * HOUR]
    )
    assert forecasts.issues_at(connection, KEY, set()) == []
    between = forecasts.issued_between(connection, KEY, NOW + HOUR, NOW + 2 * HOUR, "seasonal_naive")
    assert between == [row for at in (NOW + HOUR, NOW + 2 * HOUR) for row in every[at] if row.model != "prophet"]


def test_scoring_a_day_again_replaces_all_that_was_said_of_it(connection: sa.Connection) -> None:
    first, second = date(2026, 4, 1), date(2026, 4, 2)
    before = [score(first, name, 24, 3.0) for name in ("prophet", "published")]
    forecasts.replace_accuracy(connection, KEY, [first], before)
    forecasts.replace_accuracy(connection, KEY, [second], [score(second, "published", 24, 4.0)])
    forecasts.replace_accuracy(connection, KEY, [first], [score(first, "published", 23, 2.0)])
    found = forecasts.accuracies(connection, KEY, first, second)
    assert found == [score(first, "published", 23, 2.0), score(second, "published", 24, 4.0)]
    forecasts.replace_accuracy(connection, KEY, [first, second], [])
    assert forecasts.accuracies(connection, KEY, first, second) == []


def test_published_weighs_days_by_their_hours_and_forgets_what_came_later(connection: sa.Connection) -> None:
    day = NOW.date()
    rows = [
        score(day, "published", 24, 2.0),
        score(day - timedelta(days=1), "published", 8, 6.0),
        score(day - timedelta(days=2), "published", 24, None),
        score(day - timedelta(days=3), "published", 24, 50.0, at=NOW + HOUR),
        score(day - timedelta(days=40), "published", 24, 50.0),
        score(day, "published", 24, 50.0, lead="gate"),
        score(day, "seasonal_naive", 24, 9.0),
    ]
    forecasts.replace_accuracy(connection, KEY, {row.day for row in rows}, rows)
    found = forecasts.published(connection, KEY, NOW)
    assert set(found) == {"published", "seasonal_naive"}
    one = found["published"]
    assert (one.days, one.hours, one.mape, one.mase) == (3, 56, pytest.approx(3.0), pytest.approx(0.5))
    assert forecasts.published(connection, KEY, NOW - HOUR) == {}
