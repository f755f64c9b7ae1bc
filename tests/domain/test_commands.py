from __future__ import annotations

import hashlib
import hmac
import json
import math
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from energy_cloud_dagster.domain.commands import (
    EVENTS,
    EXPIRED_BECAUSE,
    OPEN,
    STATES,
    Ack,
    Instruction,
    State,
    canonical,
    check_settings,
    check_validity,
    command_document,
    config_document,
    config_key,
    following,
    instruction,
    is_signed,
    parse_ack,
)
from energy_cloud_dagster.domain.errors import InvalidInput, Rejected

NOW = datetime(2026, 11, 22, 5, tzinfo=UTC)
FINAL = set(STATES) - set(OPEN)
TOKEN = "ecd_abcdefghij27_" + "s" * 43

plain = st.none() | st.booleans() | st.integers(-(10**14), 10**14) | st.text(st.characters(codec="utf-8"), max_size=20)
flat = st.dictionaries(st.from_regex(r"[A-Za-z0-9_.-]{1,12}", fullmatch=True), plain, min_size=1, max_size=6)


@given(st.lists(st.sampled_from(EVENTS), max_size=30))
@settings(max_examples=100)
def test_whatever_happens_a_command_is_in_a_legal_state_and_a_final_one_is_final(
    events: list[str],
) -> None:
    state: State = "queued"
    ended = None
    for event in events:
        after = following(state, event)  # type: ignore[arg-type]
        assert after in {None, event}
        assert STATES.index(after or state) >= STATES.index(state)
        state = after or state
        assert ended is None or state == ended
        ended = state if state in FINAL else None
    assert state in STATES


@pytest.mark.parametrize("state", OPEN)
def test_every_open_command_can_end_each_way_and_says_why_it_expired(state: State) -> None:
    assert {following(state, event) for event in ("done", "rejected", "expired")} == FINAL
    assert EXPIRED_BECAUSE[state]


def test_a_repetition_keeps_sent_and_never_takes_an_acceptance_back() -> None:
    assert following("sent", "sent") == "sent"
    assert following("accepted", "sent") is None
    assert following("accepted", "accepted") is None


def test_powers_become_kw_and_a_release_has_none() -> None:
    assert instruction("setpoint", 1_500, "W") == Instruction("setpoint", 1.5, "kW")
    assert instruction("setpoint", -2, "MW") == Instruction("setpoint", -2_000.0, "kW")
    assert instruction("release") == Instruction("release", None, None)


@pytest.mark.parametrize(
    ("kind", "value", "unit", "pointer"),
    [
        ("explode", 1, "kW", "/type"),
        ("setpoint", None, "kW", "/value"),
        ("setpoint", math.inf, "kW", "/value"),
        ("setpoint", math.nan, "kW", "/value"),
        ("setpoint", 1e15, "kW", "/value"),
        ("setpoint", 1, "kWh", "/unit"),
        ("setpoint", 1, None, "/unit"),
        ("release", 0, None, "/value"),
        ("release", None, "kW", "/value"),
    ],
)
def test_a_faulty_command_is_refused_at_its_faulty_field(
    kind: str, value: float | None, unit: str | None, pointer: str
) -> None:
    with pytest.raises(InvalidInput) as refusal:
        instruction(kind, value, unit)
    assert refusal.value.pointer == pointer


def test_an_unknown_type_is_told_the_known_ones() -> None:
    with pytest.raises(InvalidInput, match=r"setpoint .* release"):
        instruction("explode")


def test_a_command_is_valid_from_now_to_a_week_ahead() -> None:
    week = timedelta(days=7)
    assert check_validity(NOW + week, NOW) == NOW + week
    for wrong in (NOW, NOW - week, NOW + week + timedelta(seconds=1)):
        with pytest.raises(InvalidInput) as refusal:
            check_validity(wrong, NOW)
        assert refusal.value.pointer == "/validUntil"


def test_a_command_looks_as_the_interface_says() -> None:
    document = command_document("c-1", instruction("setpoint", 40, "kW"), NOW)
    assert document == {
        "commandId": "c-1",
        "type": "setpoint",
        "value": 40.0,
        "unit": "kW",
        "validUntil": "2026-11-22T05:00:00Z",
    }


@given(flat)
@settings(max_examples=60)
def test_signed_settings_survive_the_wire_and_no_change_of_them_does(wanted: dict[str, object]) -> None:
    try:
        checked = check_settings(wanted)
    except InvalidInput:  # control characters
        return
    document = config_document(3, checked, [("abcdefghij27", config_key(TOKEN))])
    received = json.loads(json.dumps(document))
    assert received["settings"] == checked
    assert is_signed(received, "abcdefghij27", TOKEN)
    assert not is_signed(received, "abcdefghij27", TOKEN + "x")
    assert not is_signed(received, "zzzzzzzzzz27", TOKEN)
    assert not is_signed(received | {"version": 4}, "abcdefghij27", TOKEN)
    assert not is_signed(received | {"settings": checked | {"more": 1}}, "abcdefghij27", TOKEN)
    assert not is_signed(received | {"signature": None}, "abcdefghij27", TOKEN)


def test_the_signature_is_what_a_device_computes_with_any_library() -> None:
    document = config_document(
        1, check_settings({"b": 2.0, "a": "é", "c": 0.25}), [("id", config_key(TOKEN)), ("old", "00" * 32)]
    )
    key = hmac.new(TOKEN.encode(), b"energy-cloud config", hashlib.sha256).digest()
    content = '{"settings":{"a":"é","b":2,"c":0.25},"version":1}'.encode()
    mine, other = document["signature"].split(" ")
    assert mine == "id:" + hmac.new(key, content, hashlib.sha256).hexdigest()
    assert other.startswith("old:")
    assert config_document(1, {"a": 1})["signature"] is None


def test_numbers_have_the_digits_that_rfc_8785_gives_them() -> None:
    checked = check_settings({"a": 1e14, "b": -0.0, "c": 0.0001, "d": 123456789.5, "e": -3.0})
    assert canonical(checked) == b'{"a":100000000000000,"b":0,"c":0.0001,"d":123456789.5,"e":-3}'


@pytest.mark.parametrize(
    ("wanted", "pointer"),
    [
        ({}, "/settings"),
        ({str(number): 1 for number in range(201)}, "/settings"),
        ({"": 1}, "/settings/"),
        ({"a/b~": 1}, "/settings/a~1b~0"),
        ({"a": {"b": 1}}, "/settings/a"),
        ({"a": [1]}, "/settings/a"),
        ({"a": "x\x00"}, "/settings/a"),
        ({"a": "\ud800"}, "/settings/a"),
        ({"a": "x" * 1_025}, "/settings/a"),
        ({"a": math.nan}, "/settings/a"),
        ({"a": math.inf}, "/settings/a"),
        ({"a": 10**400}, "/settings/a"),
        ({"a": 1e15}, "/settings/a"),
        ({"a": 0.00001}, "/settings/a"),
    ],
)
def test_settings_that_devices_could_read_differently_are_refused(wanted: dict[str, object], pointer: str) -> None:
    with pytest.raises(InvalidInput) as refusal:
        check_settings(wanted)
    assert refusal.value.pointer == pointer


def test_acknowledgements_name_a_command_or_a_version() -> None:
    assert parse_ack(b'{"commandId": "c-1", "state": "done"}') == Ack("c-1", None, "done", None)
    assert parse_ack(b'{"version": 2, "state": "rejected", "reason": "a\\u0000b", "more": 1}') == Ack(
        None, 2, "rejected", "a\N{REPLACEMENT CHARACTER}b"
    )


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"done",
        b"[]",
        b'{"state": "done"}',
        b'{"commandId": "c-1"}',
        b'{"commandId": "c-1", "version": 1, "state": "done"}',
        b'{"commandId": "c-1", "state": "sent"}',
        b'{"commandId": "", "state": "done"}',
        b'{"commandId": "a\\u0000", "state": "done"}',
        b'{"version": 0, "state": "done"}',
        b'{"version": 2147483648, "state": "done"}',
        b'{"version": 1.5, "state": "done"}',
        b'{"commandId": 7, "state": "done"}',
        b'{"commandId": "c-1", "state": "done", "reason": "\\ud800"}',
        b"\xff",
        b"[" * 4_000,
        b"{" + b" " * 4_096 + b"}",
    ],
)
def test_what_is_no_acknowledgement_is_rejected_with_a_reason(payload: bytes) -> None:
    with pytest.raises(Rejected) as refusal:
        parse_ack(payload)
    assert refusal.value.reason in {"bad_ack", "too_large"}


@given(
    st.binary(max_size=60) | st.recursive(plain, lambda inner: st.lists(inner) | flat).map(json.dumps).map(str.encode)
)
@settings(max_examples=100)
def test_no_payload_stops_the_parser(payload: bytes) -> None:
    try:
        ack = parse_ack(payload)
    except Rejected:
        return
    assert following("queued", ack.state) == ack.state
