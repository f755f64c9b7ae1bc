"""A commanded battery obeys physics: energy in, energy out, and never more than it holds."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from energy_cloud_dagster.services import battery
from energy_cloud_dagster.services.device_physics import (
    Battery,
    Piece,
    mean_limited,
    on_schedule,
    pieces,
    scheduled_soc,
)

LIMITS = Battery(500.0, 1_000.0, 0.9, 0.05, 0.95)
NOON = datetime(2026, 3, 2, 3, tzinfo=UTC).timestamp()  # in Seoul
SOCS = st.floats(LIMITS.min_soc, LIMITS.max_soc)
SPANS = st.floats(1, 3 * 86_400)
MOMENTS = st.floats(NOON, NOON + 86_400)
POWERS = st.none() | st.floats(-500, 500)
fast = settings(max_examples=100, deadline=None)


def run(soc: float, begin: float, end: float, kw: float | None) -> list[Piece]:
    return list(pieces(LIMITS, soc, begin, end, kw))


@fast
@given(SOCS, MOMENTS, SPANS, POWERS)
def test_pieces_cover_the_span_and_stay_within_the_limits(
    soc: float, begin: float, length: float, kw: float | None
) -> None:
    done = run(soc, begin, begin + length, kw)
    assert done[0].begin == begin
    assert done[-1].end == pytest.approx(begin + length, abs=1e-5)
    assert done[0].soc_begin == soc
    for before, after in pairwise(done):
        assert (before.end, before.soc_end) == (after.begin, after.soc_begin)
    for piece in done:
        assert piece.end > piece.begin
        assert abs(piece.kw) <= LIMITS.kw + 1e-6
        assert LIMITS.min_soc - 1e-9 <= piece.soc_end <= LIMITS.max_soc + 1e-9


@fast
@given(SOCS, MOMENTS, SPANS, POWERS)
def test_no_energy_is_made(soc: float, begin: float, length: float, kw: float | None) -> None:
    one_way = math.sqrt(LIMITS.efficiency)
    for piece in run(soc, begin, begin + length, kw):
        energy = piece.kw * (piece.end - piece.begin) / 3_600
        stored = (piece.soc_end - piece.soc_begin) * LIMITS.kwh
        expected = -energy / one_way if energy > 0 else -energy * one_way
        assert stored == pytest.approx(expected, abs=2e-3)


@fast
@given(SOCS, MOMENTS, SPANS, st.floats(0.01, 0.99), POWERS)
def test_a_span_is_the_sum_of_its_parts(
    soc: float, begin: float, length: float, share: float, kw: float | None
) -> None:
    end, middle = begin + length, begin + share * length
    whole = run(soc, begin, end, kw)
    first = run(soc, begin, middle, kw)
    second = run(first[-1].soc_end if first else soc, middle, end, kw)
    assert second[-1].soc_end == pytest.approx(whole[-1].soc_end, abs=1e-7)

    def energy(done: list[Piece]) -> float:
        return sum(piece.kw * (piece.end - piece.begin) for piece in done) / 3_600

    assert energy(first) + energy(second) == pytest.approx(energy(whole), abs=1e-3)


def test_a_setpoint_is_held_until_the_battery_is_empty_or_full() -> None:
    discharging = run(0.5, NOON, NOON + 2 * 3_600, 300.0)
    seconds = 0.45 * 1_000 * math.sqrt(0.9) / 300 * 3_600
    assert [piece.kw for piece in discharging] == [300.0, 0.0]
    assert discharging[0].end - NOON == pytest.approx(seconds, abs=1e-5)
    assert discharging[-1].soc_end == LIMITS.min_soc
    charging = run(0.5, NOON, NOON + 3 * 3_600, -300.0)
    assert [piece.kw for piece in charging] == [-300.0, 0.0]
    assert charging[-1].soc_end == LIMITS.max_soc
    assert [piece.kw for piece in run(0.5, NOON, NOON + 86_400, 0.0)] == [0.0]


@fast
@given(SOCS, MOMENTS)
def test_a_released_battery_is_on_its_schedule_within_two_hours_and_stays(soc: float, begin: float) -> None:
    """At full power it moves twice as fast as its schedule: the widest gap is closed in less than four hours."""
    done = run(soc, begin, begin + 86_400, None)
    met = [piece for piece in done if on_schedule(piece.soc_begin, piece.begin)]
    assert met
    assert met[0].begin - begin < 4 * 3_600
    assert done[-len(met) :] == met
    before = done[: -len(met)]
    assert all(abs(piece.kw) == LIMITS.kw for piece in before)


def test_on_schedule_it_does_what_the_uncommanded_battery_does() -> None:
    begin = NOON - 3_600
    done = run(scheduled_soc(begin), begin, begin + 86_400, None)
    starts = np.arange(begin, begin + 86_400, 900)
    rule = battery.output_kw(starts, 15)
    for start, expected in zip(starts.tolist(), rule.tolist(), strict=True):
        energy = sum(
            piece.kw * (min(piece.end, start + 900) - max(piece.begin, start))
            for piece in done
            if piece.begin < start + 900 and piece.end > start
        )
        assert energy / 900 == pytest.approx(expected, abs=1e-5)


@fast
@given(st.floats(-20, 600), st.lists(st.tuples(st.floats(1, 3_600), st.none() | st.floats(0, 600)), min_size=1))
def test_curtailment_never_adds(available: float, parts: list[tuple[float, float | None]]) -> None:
    mean = mean_limited(available, iter(parts))
    assert mean <= available + 1e-9
    limits = [limit for _, limit in parts if limit is not None]
    assert mean >= min([available, *limits]) - 1e-9
    if all(limit is None for _, limit in parts):
        assert mean == pytest.approx(available)


def test_nothing_limited_is_all_of_it() -> None:
    assert mean_limited(5.0, iter(())) == 5.0
