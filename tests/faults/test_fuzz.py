"""Whatever devices send, no worker stops, what is good is stored, and what is refused is kept with a true reason.

``judge`` says in other words than the decoder which reasons are true of a message. ``ENERGY_CLOUD_FUZZ_CASES`` sets the
number of cases; the long run has 100,000.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from energy_cloud_dagster.adapters import readings, registry
from energy_cloud_dagster.domain.readings import Decoded, Rules, SeriesInfo, SeriesKey, Topic, decode_message

if TYPE_CHECKING:
    from tests.faults.conftest import Ground

CASES = int(os.environ.get("ENERGY_CLOUD_FUZZ_CASES", "500"))
MANY = settings(
    max_examples=CASES,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.generate, Phase.shrink],
)
RULES = Rules()
NOW = datetime.now(UTC).replace(microsecond=0)
SERIES: dict[SeriesKey, SeriesInfo] = {
    ("SM-1", "consumption"): SeriesInfo(1, "kWh", "energy", 15, "seoul", "smart-meter"),
    ("SM-2", "consumption"): SeriesInfo(2, "kWh", "energy", 60, "seoul", "smart-meter", "load"),
    ("BAT-1", "soc"): SeriesInfo(3, "1", "state", 15, "seoul", "battery", "soc"),
    ("BAT-1", "output"): SeriesInfo(4, "kW", "power", 15, "seoul", "battery", "storage"),
}
ALIASES = {"seoul": "seoul", "kr-seoul": "seoul"}
UNITS = {
    unit: (quantity, size)
    for quantity, sizes in {
        "power": {"W": 1, "kW": 1e3, "MW": 1e6},
        "energy": {"Wh": 1, "kWh": 1e3, "MWh": 1e6},
        "fraction": {"%": 1, "1": 100},
        "temperature": {"°C": 1},
        "speed": {"m/s": 1},
        "voltage": {"V": 1},
        "current": {"A": 1},
        "frequency": {"Hz": 1},
    }.items()
    for unit, size in sizes.items()
}
CONTROL = {"command", "config", "ack", "status"}


# What may come


def moments() -> st.SearchStrategy[object]:
    """Timestamps: good ones, too early, too late, off the grid, in every notation, and nonsense."""
    hours = st.integers(-15_000, 15_000) | st.integers(-200, 0)
    whole = hours.map(lambda hour: NOW.replace(minute=0, second=0) + timedelta(hours=hour))
    any_moment = whole | st.datetimes(timezones=st.just(UTC))
    return st.one_of(
        whole.map(lambda ts: ts.isoformat().replace("+00:00", "Z")),
        any_moment.map(datetime.isoformat),
        any_moment.map(lambda ts: ts.timestamp()),
        any_moment.map(lambda ts: int(ts.timestamp() * 1000)),
        any_moment.map(lambda ts: str(ts.timestamp())),
        whole.map(lambda ts: ts.replace(tzinfo=None).isoformat()),
        st.sampled_from(
            ["", "now", "Z", "2026-13-01T00:00:00Z", "0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59"]
        ),
        st.text(max_size=30),
        numbers(),
    )


def numbers() -> st.SearchStrategy[object]:
    return st.one_of(
        st.floats(0, 10_000),
        st.integers(-(10**400), 10**400) | st.integers(0, 100),
        st.floats(),
        st.floats(allow_nan=False).map(str),
        st.sampled_from(
            ["1e400", "-1e400", "1_000", "0x10", "1,5", "٣", "NaN", " 7 ", "+.5", "1.", "1e5", "--1", "inf"]
        ),
    )


def anything() -> st.SearchStrategy[object]:
    leaves = st.none() | st.booleans() | numbers() | st.text(max_size=20)
    return st.recursive(
        leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    )


def single() -> st.SearchStrategy[object]:
    """One reading: mostly right, sometimes wrong in one field or in all, with fields missing or too many."""
    usual: dict[str, st.SearchStrategy[object]] = {
        "timestamp": moments(),
        "value": numbers(),
        "unit": st.sampled_from(sorted(UNITS)) | st.just("kWh"),
    }
    optional: dict[str, st.SearchStrategy[object]] = {
        "quality": st.sampled_from(["high", "medium", "low", "bad", "odd", "High"]),
        "receivedAt": moments() | st.none(),
        "note": anything(),
    }
    odd = st.fixed_dictionaries(
        {}, optional={name: anything() for name in ("timestamp", "value", "unit", "quality", "receivedAt")}
    )
    return st.one_of(st.fixed_dictionaries(usual, optional=optional), st.fixed_dictionaries(usual), odd)


def good() -> st.SearchStrategy[object]:
    return st.fixed_dictionaries(
        {
            "timestamp": st.integers(-200, -1).map(
                lambda hour: (NOW.replace(minute=0, second=0) + timedelta(hours=hour)).isoformat()
            ),
            "value": st.floats(0, 100),
            "unit": st.just("kWh"),
        }
    )


def written(what: st.SearchStrategy[object]) -> st.SearchStrategy[bytes]:
    return st.builds(
        lambda item, plain: json.dumps(item, ensure_ascii=plain).encode("utf-8", "surrogatepass"), what, st.booleans()
    )


def damaged(payload: bytes, at: float, with_: bytes, drop: int) -> bytes:
    place = int(at * len(payload))
    return payload[:place] + with_ + payload[place + drop :]


def payloads() -> st.SearchStrategy[bytes]:
    """Good ones, cut and damaged ones, bytes of any kind, deep ones, long ones, up to what a broker lets through."""
    whole = written(st.one_of(good(), single(), st.lists(good() | single() | anything(), max_size=6), anything()))
    reading = b'{"timestamp":0,"value":1,"unit":"kWh"}'
    foreign = [b"NaN", b'": NaN,"', b",", b"\xff", b"\xed\xa0\x80", b"\\ud800", b"\x00", b"\xef\xbb\xbf"]
    depth = st.sampled_from([1, 20, 500, 1_000, 5_000, 40_000])
    length = st.sampled_from([1_000, 262_144, 262_145, 1_048_000])
    opening, closing = st.sampled_from([b"[", b'{"a":', b'[{"unit":']), st.sampled_from([b"]", b"}", b"", b"}]"])
    return st.one_of(
        whole,
        st.builds(lambda text, end: text[: int(end * len(text))], whole, st.floats(0, 1)),
        st.builds(damaged, whole, st.floats(0, 1), st.binary(max_size=4), st.integers(0, 4)),
        st.builds(damaged, whole, st.floats(0, 1), st.sampled_from(foreign), st.just(0)),
        st.binary(max_size=200),
        st.builds(lambda first, last, times: first * times + last * times, opening, closing, depth),
        st.builds(listed, st.sampled_from([b"1", b"{}", reading]), st.sampled_from([2, 300, 9_000, 12_000])),
        st.builds(lambda byte, size: byte * size, st.sampled_from([b"x", b" ", b"1", b"[", b"\x00", b'"']), length),
        st.sampled_from([b"", b"null", b"[]", b"{}", b"1" * 5_000, b'"' + b"a" * 5_000 + b'"', listed(b"1", 5_000)]),
    )


def listed(item: bytes, times: int) -> bytes:
    return b"[" + b",".join([item] * times) + b"]"


LEVELS = st.one_of(
    st.sampled_from(
        ["seoul", "kr-seoul", "busan", "smart-meter", "battery", "SM-1", "SM-2", "BAT-1", "consumption", "soc"]
    ),
    st.sampled_from(
        ["", " ", ".", "\u200b", "é", "e\u0301", "🔋", "SM-1\n", "\x00", "\x7f", "+", "#", "$SYS", "x" * 600]
    ),
    st.text(max_size=12),
)
KNOWN = [
    f"energy-cloud/{info.region_id}/{info.device_type}/{device}/{metric}" for (device, metric), info in SERIES.items()
]


def topics() -> st.SearchStrategy[str]:
    near = st.builds(
        lambda topic, index, level: "/".join(
            level if number == index else part for number, part in enumerate(topic.split("/"))
        ),
        st.sampled_from(KNOWN),
        st.integers(0, 4),
        LEVELS | st.sampled_from(sorted(CONTROL)),
    )
    return st.one_of(
        st.sampled_from(KNOWN),
        st.sampled_from(KNOWN),
        near,
        st.lists(LEVELS, max_size=7).map("/".join),
        st.lists(LEVELS, min_size=4, max_size=4).map(lambda levels: "/".join(["energy-cloud", *levels])),
    )


# What is true of it


class Verdict(NamedTuple):
    """Of one reading: the (timestamp, value, quality) to store, or every reason that is true."""

    stored: tuple[datetime, float, str] | None
    reasons: set[str]


def judge_topic(topic: str) -> tuple[SeriesInfo | None, set[str]]:
    """The series of a topic, or the reason against it; neither for a control topic."""
    parts = topic.split("/")
    plain = all(part and part.isprintable() for part in parts)
    if len(parts) != 5 or parts[0] != "energy-cloud" or not plain or len(topic) > 512:
        return None, {"bad_topic"}
    _, where, kind, device, metric = parts
    if metric in CONTROL:
        return None, set()
    info = SERIES.get((device, metric))
    if info is None:
        return None, {"unknown_metric" if device in {name for name, _ in SERIES} else "unknown_device"}
    if (ALIASES.get(where, where), kind) != (info.region_id, info.device_type):
        return None, {"topic_mismatch"}
    return info, set()


def judge(payload: bytes, info: SeriesInfo) -> list[list[Verdict]]:
    """What is true of each reading of a message; one verdict where the message is refused as a whole.

    Of a message that is broken where no decoder need look (a field that nobody reads), two answers are true.
    """
    if len(payload) > RULES.max_payload_bytes:
        return [[Verdict(None, {"too_large"})]]
    # a decoder that stops at the first fault may have met a wrong shape before the wrong letter
    broken = [Verdict(None, {"bad_json", "bad_payload", "too_large", *not_finite(payload)})]
    try:
        return [judge_document(payload.decode(), info, strict=True)]
    except RecursionError:
        return [[Verdict(None, {"bad_payload"})]]
    except ValueError:
        with contextlib.suppress(ValueError, RecursionError):
            lenient = judge_document(payload.decode(errors="replace"), info, strict=False)
            return [broken, [Verdict(each.stored, each.reasons | {"bad_json", "bad_payload"}) for each in lenient]]
        return [broken]


def judge_document(text: str, info: SeriesInfo, *, strict: bool) -> list[Verdict]:
    strange: list[str] = []
    found = json.loads(text, parse_constant=strange.append, parse_int=float, strict=strict)
    if strict:
        json.dumps(found, ensure_ascii=False).encode()  # no half of a surrogate pair
    if strange:
        return [Verdict(None, {"not_finite", "bad_payload"})]
    if not isinstance(found, list):
        return [judge_reading(found, info)]
    if not found:
        return [Verdict(None, {"bad_payload"})]
    verdicts = [judge_reading(item, info) for item in found]
    if len(found) > 10_000 and not all(verdict.stored for verdict in verdicts):
        return [Verdict(None, {"too_large"})]
    return verdicts


def not_finite(payload: bytes) -> set[str]:
    """Whether the words stand outside of strings."""
    bare = re.sub(rb'"(\\.|[^"\\])*("|$)', b'""', payload, flags=re.DOTALL)
    return {"not_finite"} if re.search(rb"NaN|Infinity", bare) else set()


def judge_reading(item: object, info: SeriesInfo) -> Verdict:
    def is_number(field: object) -> bool:
        return isinstance(field, float | str)  # parse_int makes floats of all, booleans stay out

    if (
        not isinstance(item, dict)
        or not is_number(item.get("timestamp"))
        or not is_number(item.get("value"))
        or not isinstance(item.get("unit"), str)
        or not isinstance(item.get("quality", "high"), str)
        or not (item.get("receivedAt") is None or is_number(item["receivedAt"]))
    ):
        return Verdict(None, {"bad_payload"})
    heard = [item[name] for name in ("timestamp", "value", "receivedAt") if name in item]
    reasons = {"bad_payload"} if any(isinstance(field, float) and math.isinf(field) for field in heard) else set()
    quality = item.get("quality", "high")
    if quality not in {"high", "medium", "low", "bad"}:
        reasons.add("bad_quality")
    value = judge_value(item["value"], item["unit"], info, reasons)
    ts = judge_moment(item["timestamp"], info, reasons)
    if reasons or ts is None or value is None:
        return Verdict(None, reasons)
    return Verdict((ts, value, quality), set())


def judge_value(given: float | str, unit: str, info: SeriesInfo, reasons: set[str]) -> float | None:
    if unit not in UNITS or UNITS[unit][0] != UNITS[info.unit][0]:
        reasons.add("bad_unit")
    value = as_number(given.strip() if isinstance(given, str) else given)
    if value is None:
        reasons.add("bad_value")
        return None
    if unit in UNITS and math.isfinite(value) and unit != info.unit:
        value = value * UNITS[unit][1] / UNITS[info.unit][1]
    if not math.isfinite(value):
        reasons.add("not_finite")
    return value


def judge_moment(given: float | str, info: SeriesInfo, reasons: set[str]) -> datetime | None:
    ts: datetime | None = None
    epoch = as_number(given)
    with contextlib.suppress(ValueError, OverflowError, OSError):
        if epoch is not None:
            ts = datetime.fromtimestamp(epoch / 1000 if abs(epoch) >= 1e11 else epoch, UTC)
        else:
            said = datetime.fromisoformat(str(given))
            ts = said.astimezone(UTC) if said.tzinfo else None
    if ts is None:
        reasons |= {"bad_timestamp"} if epoch is None or math.isfinite(epoch) else {"bad_timestamp", "not_finite"}
        return None
    if ts - NOW > RULES.future_tolerance:
        reasons.add("future_timestamp")
    if NOW - ts > RULES.late_tolerance:
        reasons.add("too_old")
    step = timedelta(minutes=info.interval_minutes)
    if info.role and info.kind != "state" and (ts - datetime(1970, 1, 1, tzinfo=UTC)) % step:
        reasons.add("misaligned")
    return ts


def as_number(given: float | str) -> float | None:
    """What Python takes for a number, but for what no device may send: underscores, and digits of other scripts."""
    if isinstance(given, str) and ("_" in given or not given.isascii() or given != given.strip()):
        return None
    with contextlib.suppress(ValueError):
        return float(given)
    return None


# The tests


def check(topic: str, payload: bytes) -> None:
    found = decode_message(topic, payload, received_at=NOW, series=SERIES, rules=RULES, aliases=ALIASES)
    info, against = judge_topic(topic)
    assert all(reason.detail and reason.reason for reason in found.rejected)
    if info is None:
        assert (found.rows, {reason.reason for reason in found.rejected}) == ([], against)
        return
    answers = judge(payload, info)
    assert any(agrees(found, verdicts) for verdicts in answers), (found, answers)


def agrees(found: Decoded, verdicts: list[Verdict]) -> bool:
    """Whether the decoder stored what is to be stored, and gave a true reason for each of the others."""
    places = [re.match(r"/(\d+)", reason.pointer) for reason in found.rejected]
    refused = {
        int(place[1]) if place and len(verdicts) > 1 else 0: reason.reason
        for place, reason in zip(places, found.rejected, strict=True)
    }
    stored = [verdict.stored for index, verdict in enumerate(verdicts) if index not in refused]
    return (
        len(refused) == len(found.rejected)
        and all(reason in verdicts[index].reasons for index, reason in refused.items())
        and [(row.ts, row.value, row.quality) for row in found.rows] == stored
    )


@given(topic=topics(), payload=payloads())
@MANY
def test_every_message_is_stored_or_refused_for_a_true_reason(topic: str, payload: bytes) -> None:
    check(topic, payload)


def test_a_worker_lives_through_it(either: Ground) -> None:
    """Hundreds of fuzzed messages in one go, good ones among them: what decodes is stored, all else is kept."""
    meter, device = either.meter(), either.device()
    fuzzed = some(meter, count=500)
    messages = [each for n, bad in enumerate(fuzzed) for each in (bad, (str(meter), either.said(n)))]
    worker, before = either.worker(), either.last_reject()
    for topic, payload in messages:
        device.send(topic, payload)
    last = meter._replace(metric="sentinel")
    with either.engine.begin() as connection:
        registry.register_device(connection, last, "kWh", NOW)
        series = readings.series_ids(connection, [meter.device_id])
    device.send(last, either.said(1))
    device.flush()
    either.until(lambda: either.rows(last))
    assert worker.alive
    totals = worker.stop()
    assert totals["messages"] == len(messages) + 1
    rows, refused = expected_of(messages, series)
    assert Counter(either.refused_since(before)) == refused
    assert totals["rejected"] == refused.total() > 100
    assert len({reason for _, _, reason in refused}) > 5
    assert len(rows) >= len(fuzzed) > 200
    found = [(row.ts, row.value, row.quality) for row in either.known(meter)]
    assert found == sorted((ts, value, quality) for ts, (value, quality) in rows.items())


def some(meter: Topic, count: int) -> list[tuple[str, bytes]]:
    """Return messages of the strategies above that a broker lets through, most of them to the meter's own topic."""
    found: list[tuple[str, bytes]] = []

    @given(st.sampled_from([str(meter)] * 4) | topics(), payloads())
    @settings(MANY, max_examples=count, derandomize=True, phases=[Phase.generate], database=None)
    def collect(topic: str, payload: bytes) -> None:
        # brokers end the connection of a client for a topic with control characters; messages of 1 MB are refused, too
        of_a_device = topic.startswith("energy-cloud/") and topic.count("/") == 4
        if of_a_device and topic.isprintable() and not {"+", "#"} & set(topic) and len(payload) <= 300_000:
            found.append((topic, payload))

    collect()
    return found


def expected_of(
    messages: list[tuple[str, bytes]], series: Mapping[SeriesKey, SeriesInfo]
) -> tuple[dict[datetime, tuple[float, str]], Counter[tuple[str, bytes, str]]]:
    """Return the latest (value, quality) of each moment, and (topic, bytes, reason) of what is refused, counted."""
    rows: dict[datetime, tuple[float, str]] = {}
    refused: Counter[tuple[str, bytes, str]] = Counter()
    for topic, payload in messages:
        decoded = decode_message(
            topic, payload, received_at=datetime.now(UTC), series=series, rules=RULES, aliases={"faults": "faults"}
        )
        rows |= {row.ts: (row.value, row.quality) for row in decoded.rows}
        reasons = {reason.reason for reason in decoded.rejected}
        refused.update((topic, payload[: RULES.max_payload_bytes], reason) for reason in reasons)
    return rows, refused
