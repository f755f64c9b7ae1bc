"""What the faults may do to a stream of messages, and what they may never."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from energy_cloud_dagster.domain.errors import InvalidInput
from energy_cloud_dagster.services.fleet_faults import (
    DUPLICATE_WINDOW,
    REGISTER,
    REORDER_WINDOW,
    SPAN,
    Faults,
    faulty,
)
from energy_cloud_dagster.services.simulator import MAX_LATENCY, Message
from energy_cloud_dagster.services.synthetic_fleet import SyntheticFleet

START = datetime(2026, 3, 2, tzinfo=UTC)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
FLEET = SyntheticFleet(12, 5, registers=True)
BEFORE = list(FLEET.messages(START - 2 * DAY, START + 2 * DAY))
DAYS = [message for message in BEFORE if message.ts >= START]
SEEDS = st.integers(0, 2**63)
SHARES = st.floats(0, 1)
ALL = st.builds(
    Faults, drop=SHARES, lose=SHARES, duplicate=SHARES, reorder=SHARES, stuck=SHARES, spike=SHARES, reset=SHARES,
    skew=st.floats(0, 600),
)  # fmt: skip
fast = settings(max_examples=40, deadline=None)


def said(messages: Sequence[Message]) -> Counter[tuple[object, ...]]:
    """What was said, whenever it came."""
    return Counter(message[1:] for message in messages)


@fast
@given(ALL, SEEDS)
def test_the_same_seed_gives_the_same_stream_by_receipt(faults: Faults, seed: int) -> None:
    stream = list(faulty(DAYS, faults, seed))
    assert stream == list(faulty(iter(DAYS), faults, seed))
    assert all(earlier.received_at <= later.received_at for earlier, later in pairwise(stream))


@fast
@given(SEEDS)
def test_without_faults_nothing_changes(seed: int) -> None:
    assert list(faulty(DAYS, Faults(), seed)) == DAYS
    assert list(faulty(DAYS, Faults(), seed, since=START + DAY)) == [each for each in DAYS if each.ts >= START + DAY]


@fast
@given(ALL, SEEDS)
def test_a_device_does_not_know_how_many_others_there_are(faults: Faults, seed: int) -> None:
    few = {each.device_id for each in DAYS[::7]}
    alone = list(faulty((each for each in DAYS if each.device_id in few), faults, seed))
    assert alone == [each for each in faulty(DAYS, faults, seed) if each.device_id in few]


@fast
@given(ALL, SEEDS, st.integers(1, 47))
def test_a_span_is_the_sum_of_its_parts(faults: Faults, seed: int, cut: int) -> None:
    def part(first: int, last: int) -> list[Message]:
        begin, end = START + first * HOUR, START + last * HOUR
        lead = (each for each in BEFORE if begin - faults.lead <= each.ts < end)
        return list(faulty(lead, faults, seed, since=begin))

    assert sorted([*part(0, cut), *part(cut, 48)]) == sorted(part(0, 48))


@fast
@given(SHARES, SEEDS)
def test_duplicates_only_repeat(share: float, seed: int) -> None:
    stream = list(faulty(DAYS, Faults(duplicate=share), seed))
    assert set(DAYS) <= set(stream)
    assert set(said(stream)) == set(said(DAYS))
    assert max(said(stream).values()) <= 2
    first = {message[1:]: message.received_at for message in reversed(stream)}
    assert all(timedelta(0) <= each.received_at - first[each[1:]] <= DUPLICATE_WINDOW for each in stream)


@fast
@given(SHARES, SEEDS)
def test_reordering_is_a_permutation_of_bounded_displacement(share: float, seed: int) -> None:
    stream = list(faulty(DAYS, Faults(reorder=share), seed))
    assert said(stream) == said(DAYS)
    due = {message[1:]: message.received_at for message in DAYS}
    assert all(timedelta(0) <= each.received_at - due[each[1:]] <= REORDER_WINDOW for each in stream)


@fast
@given(SHARES, SEEDS)
def test_silent_devices_forward_all_of_it_later(share: float, seed: int) -> None:
    stream = list(faulty(DAYS, Faults(drop=share), seed))
    assert said(stream) == said(DAYS)
    due = {message[1:]: message.received_at for message in DAYS}
    assert all(timedelta(0) <= each.received_at - due[each[1:]] <= SPAN + MAX_LATENCY for each in stream)


@fast
@given(SHARES, SHARES, SEEDS)
def test_what_is_lost_is_lost_a_span_at_a_time(share: float, other: float, seed: int) -> None:
    kept = list(faulty(DAYS, Faults(lose=share), seed))
    assert said(kept) <= said(DAYS)
    more = list(faulty(DAYS, Faults(lose=max(share, other)), seed))
    assert said(more) <= said(kept)
    gone = {(each.device_id, each.ts) for each in DAYS} - {(each.device_id, each.ts) for each in kept}
    # Both metrics of a device fall silent together.
    assert not gone & {(each.device_id, each.ts) for each in kept}


def test_shares_of_one_strike_all() -> None:
    assert list(faulty(DAYS, Faults(lose=1), 1)) == []
    assert len(list(faulty(DAYS, Faults(duplicate=1), 1))) == 2 * len(DAYS)
    late = list(faulty(DAYS, Faults(drop=1), 1))
    due = {message[1:]: message.received_at for message in DAYS}
    assert sum(each.received_at > due[each[1:]] for each in late) > 0.7 * len(DAYS)


@fast
@given(st.floats(1, 600), SEEDS)
def test_a_skewed_clock_is_off_by_its_own_constant(skew: float, seed: int) -> None:
    stream = list(faulty(DAYS, Faults(skew=skew), seed))
    offsets = {
        each.device_id: {other.ts - before.ts for before, other in zip(DAYS, stream, strict=True)
                         if other.device_id == each.device_id}
        for each in DAYS[:12]
    }  # fmt: skip
    assert [each._replace(ts=START) for each in stream] == [each._replace(ts=START) for each in DAYS]
    assert all(len(found) == 1 and abs(found.pop()) <= timedelta(seconds=skew + 0.5) for found in offsets.values())


@fast
@given(SHARES, SEEDS)
def test_a_stuck_sensor_says_what_it_said_before(share: float, seed: int) -> None:
    stream = list(faulty(DAYS, Faults(stuck=share), seed))
    true = {(each.device_id, each.metric, each.ts): each.value for each in DAYS}
    for each in stream:
        key = each.device_id, each.metric
        before = [true.get((*key, each.ts - hours * HOUR)) for hours in range(int(SPAN / HOUR) + 1)]
        assert each.value in before
    assert all(a._replace(value=0.0) == b._replace(value=0.0) for a, b in zip(stream, DAYS, strict=True))


@fast
@given(SHARES, SEEDS)
def test_spikes_are_far_out_and_registers_have_none(share: float, seed: int) -> None:
    for before, after in zip(DAYS, faulty(DAYS, Faults(spike=share), seed), strict=True):
        assert before._replace(value=0.0) == after._replace(value=0.0)
        assert before.value is not None
        assert after.value is not None
        if after.value != before.value:
            assert before.metric != REGISTER
            assert after.value >= 19.9 * before.value


@fast
@given(SHARES, SEEDS)
def test_a_reset_register_falls_to_zero_and_counts_on(share: float, seed: int) -> None:
    stream = list(faulty(DAYS, Faults(reset=share), seed))
    struck = {}
    for before, after in zip(DAYS, stream, strict=True):
        if before.value == after.value:
            continue
        assert before.metric == REGISTER
        assert before.value is not None
        assert after.value is not None
        key = before.device_id, before.ts.date()
        zero = struck.setdefault(key, before.value)
        assert after.value == pytest.approx(before.value - zero, abs=1e-6)
    days = {(each.device_id, each.ts.date()) for each in DAYS}
    if share == 1:
        assert set(struck) <= days
        assert len(struck) > len(days) / 2
    # Once fallen, it is not set right before midnight.
    for key in struck:
        fallen = [
            before.value != after.value for before, after in zip(DAYS, stream, strict=True)
            if before.metric == REGISTER and (before.device_id, before.ts.date()) == key
        ]  # fmt: skip
        assert fallen == sorted(fallen)


def test_an_empty_reading_stays_empty() -> None:
    empty = DAYS[0]._replace(value=None, quality="bad")
    assert list(faulty([empty], Faults(stuck=1, spike=1), 1)) == [empty]


def test_faults_are_read_from_a_line() -> None:
    assert Faults.parse("") == Faults()
    assert Faults.parse(" drop=0.01, skew=5,") == Faults(drop=0.01, skew=5)
    assert Faults.parse("reset=1").lead > DAY > Faults.parse("stuck=1").lead > Faults.parse("drop=1").lead
    assert not Faults().any
    assert replace(Faults(), skew=1).any


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("drop", "is not one of drop=…"),
        ("fall=1", "is not one of"),
        ("drop=often", "no number"),
        ("drop=1.5", "is no share"),
        ("spike=nan", "is no share"),
        ("skew=-1", "seconds"),
    ],
)
def test_wrong_faults_are_named(text: str, reason: str) -> None:
    with pytest.raises(InvalidInput, match=reason):
        Faults.parse(text)
