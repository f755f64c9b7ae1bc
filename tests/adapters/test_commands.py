from __future__ import annotations

import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa

from energy_cloud_dagster.adapters import commands
from energy_cloud_dagster.adapters.commands import Command
from energy_cloud_dagster.adapters.tables import command, credential, device, market_registry, region
from energy_cloud_dagster.domain.commands import Ack, config_key, instruction, is_signed
from energy_cloud_dagster.domain.errors import Conflict, InvalidInput, NotFound, Rejected

NOW = datetime(2031, 5, 1, 12, tzinfo=UTC)
SECOND = timedelta(seconds=1)
RETRY = 10 * SECOND


@pytest.fixture
def device_id(engine: sa.Engine) -> Iterator[str]:
    """A device whose commands are closed when the test ends: others look at all that is open."""
    made, region_id = f"B-{uuid.uuid4().hex[:8]}", f"r{uuid.uuid4().hex[:8]}"
    with engine.begin() as connection:
        connection.execute(sa.insert(market_registry).values(market_id=region_id, currency="KRW"))
        connection.execute(
            sa.insert(region).values(
                region_id=region_id, name=region_id, timezone="UTC", market_id=region_id, grid_id="T"
            )
        )
        connection.execute(
            sa.insert(device).values(device_id=made, region_id=region_id, device_type="battery", created_at=NOW)
        )
    yield made
    with engine.begin() as connection:
        connection.execute(sa.update(command).where(command.c.device_id == made).values(state="done"))


def ask(connection: sa.Connection, device_id: str, at: datetime = NOW, seconds: float = 60) -> Command:
    return commands.enqueue(
        connection,
        device_id,
        instruction("release"),
        requested_by="operator",
        now=at,
        valid_until=at + seconds * SECOND,
    )


def configure(connection: sa.Connection, device_id: str, at: datetime = NOW) -> Command:
    return commands.enqueue_config(
        connection, device_id, {"a": 1.5}, requested_by="operator", now=at, valid_until=at + 60 * SECOND
    )


def claimed(connection: sa.Connection, device_id: str, at: datetime) -> list[str]:
    return [each.command.command_id for each in commands.claim(connection, at) if each.command.device_id == device_id]


def publish(connection: sa.Connection, device_id: str, at: datetime) -> list[str]:
    due = [each.command for each in commands.claim(connection, at) if each.command.device_id == device_id]
    commands.mark_sent(connection, due, at, RETRY)
    return [each.command_id for each in due]


def test_what_one_process_claimed_no_other_sees_until_it_is_through(engine: sa.Engine, device_id: str) -> None:
    with engine.begin() as connection:
        first = ask(connection, device_id).command_id
        ask(connection, device_id, NOW + SECOND)
    with engine.begin() as one, engine.begin() as two:
        assert claimed(one, device_id, NOW + 2 * SECOND) == [first]
        # nor the next one of the same device: it would overtake the first
        assert claimed(two, device_id, NOW + 2 * SECOND) == []


def test_a_claim_that_is_given_up_leaves_the_command_as_it_was(engine: sa.Engine, device_id: str) -> None:
    with engine.begin() as connection:
        queued = ask(connection, device_id)
    with engine.connect() as connection:
        assert publish(connection, device_id, NOW) == [queued.command_id]
        connection.rollback()
        assert commands.get(connection, device_id, queued.command_id) == queued
        assert claimed(connection, device_id, NOW) == [queued.command_id]


def test_the_queue_of_a_device_keeps_its_order_and_configuration_has_its_own(
    connection: sa.Connection, device_id: str
) -> None:
    asked = [ask(connection, device_id, NOW + index * SECOND).command_id for index in range(3)]
    configured = configure(connection, device_id, NOW + 9 * SECOND).command_id
    rounds = [publish(connection, device_id, NOW + 10 * SECOND) for _ in range(4)]
    assert rounds == [[asked[0], configured], [asked[1]], [asked[2]], []]


def test_only_the_newest_is_published_again_and_only_until_it_is_answered(
    connection: sa.Connection, device_id: str
) -> None:
    older, newer = ask(connection, device_id), ask(connection, device_id, NOW + SECOND)
    for _ in range(2):
        publish(connection, device_id, NOW + SECOND)
    assert commands.get(connection, device_id, older.command_id).next_attempt_at is None
    assert claimed(connection, device_id, NOW + 10 * SECOND) == []
    assert publish(connection, device_id, NOW + 11 * SECOND) == [newer.command_id]
    again = commands.get(connection, device_id, newer.command_id)
    assert (again.state, again.attempts, again.updated_at) == ("sent", 2, NOW + SECOND)
    commands.acknowledge(connection, device_id, Ack(newer.command_id, None, "accepted", None), NOW + 12 * SECOND)
    assert claimed(connection, device_id, NOW + 50 * SECOND) == []


def test_each_way_to_expire_has_its_reason_and_the_rest_stays(connection: sa.Connection, device_id: str) -> None:
    states = {}
    for index, state in enumerate(("queued", "sent", "accepted", "done")):
        states[state] = ask(connection, device_id, NOW + index * SECOND, 30)
    for state in ("sent", "accepted", "done"):
        commands.acknowledge(connection, device_id, Ack(states[state].command_id, None, "accepted", None), NOW)
    connection.execute(sa.update(command).where(command.c.command_id == states["sent"].command_id).values(state="sent"))
    commands.acknowledge(connection, device_id, Ack(states["done"].command_id, None, "done", None), NOW)
    ended = [each for each in commands.expire(connection, NOW + 40 * SECOND) if each.device_id == device_id]
    assert {each.command_id: each.reason for each in ended} == {
        states["queued"].command_id: "it could not be published in time",
        states["sent"].command_id: "no device acknowledged it",
        states["accepted"].command_id: "accepted but not done in time",
    }
    assert {each.state for each in ended} == {"expired"}
    assert commands.get(connection, device_id, states["done"].command_id).state == "done"
    assert claimed(connection, device_id, NOW + 40 * SECOND) == []


def test_the_next_thing_to_do_is_a_repetition_or_an_end(connection: sa.Connection, device_id: str) -> None:
    connection.execute(sa.update(command).values(state="done"))
    assert commands.next_due(connection) is None
    queued = ask(connection, device_id, NOW, 15)
    assert commands.next_due(connection) == NOW
    publish(connection, device_id, NOW)
    assert commands.next_due(connection) == NOW + RETRY
    publish(connection, device_id, NOW + RETRY)
    assert commands.next_due(connection) == NOW + 15 * SECOND
    commands.acknowledge(connection, device_id, Ack(queued.command_id, None, "accepted", None), NOW)
    assert commands.next_due(connection) == NOW + 15 * SECOND
    commands.acknowledge(connection, device_id, Ack(queued.command_id, None, "done", None), NOW)
    assert commands.next_due(connection) is None


def test_configurations_written_at_once_get_versions_of_their_own(engine: sa.Engine, device_id: str) -> None:
    def write(_: int) -> int | None:
        with engine.begin() as connection:
            return configure(connection, device_id).version

    with ThreadPoolExecutor(8) as pool:
        assert sorted(pool.map(write, range(16))) == list(range(1, 17))  # type: ignore[type-var]


def test_a_configuration_is_signed_with_the_credentials_that_live_when_it_is_published(
    connection: sa.Connection, device_id: str
) -> None:
    def give(name: str, **ends: datetime) -> str:
        token = f"ecd_{name}_secret"
        connection.execute(
            sa.insert(credential).values(
                credential_id=f"{name}{device_id}",
                device_id=device_id,
                token_hash="-",
                config_key=config_key(token),
                created_at=NOW,
                **ends,
            )
        )
        return token

    configure(connection, device_id)
    live = {"new": give("new"), "grace": give("grace", expires_at=NOW + RETRY)}
    dead = {"expired": give("expired", expires_at=NOW), "revoked": give("revoked", revoked_at=NOW)}
    (out,) = [each for each in commands.claim(connection, NOW) if each.command.device_id == device_id]
    assert set(out.document) == {"version", "settings", "signature"}
    assert all(is_signed(out.document, f"{name}{device_id}", token) for name, token in live.items())
    assert not any(is_signed(out.document, f"{name}{device_id}", token) for name, token in dead.items())
    (later,) = [each for each in commands.claim(connection, NOW + RETRY) if each.command.device_id == device_id]
    assert not is_signed(later.document, f"grace{device_id}", live["grace"])


def test_a_device_without_credentials_gets_no_signature(connection: sa.Connection, device_id: str) -> None:
    configure(connection, device_id)
    (out,) = [each for each in commands.claim(connection, NOW) if each.command.device_id == device_id]
    assert out.document == {"version": 1, "settings": {"a": 1.5}, "signature": None}


def test_answers_to_nothing_are_told_apart(connection: sa.Connection, device_id: str) -> None:
    queued = ask(connection, device_id)
    for answering, ack, reason in (
        ("another", Ack(queued.command_id, None, "done", None), "not_its_command"),
        (device_id, Ack("nothing", None, "done", None), "unknown_command"),
        (device_id, Ack(None, 1, "done", None), "unknown_command"),
    ):
        with pytest.raises(Rejected) as refusal:
            commands.acknowledge(connection, answering, ack, NOW)
        assert refusal.value.reason == reason
    assert commands.get(connection, device_id, queued.command_id) == queued


def test_a_device_that_repeats_itself_for_ever_does_not_fill_the_history(
    connection: sa.Connection, device_id: str
) -> None:
    queued = ask(connection, device_id)
    for _ in range(120):
        commands.acknowledge(connection, device_id, Ack(queued.command_id, None, "accepted", "again"), NOW)
    assert len(commands.history(connection, queued.command_id)) == 100
    # what changes something is kept all the same
    commands.acknowledge(connection, device_id, Ack(queued.command_id, None, "done", None), NOW)
    assert commands.history(connection, queued.command_id)[-1].state == "done"


@pytest.mark.parametrize("odd", ["a/b", "a+", "#", "a\nb"])
def test_a_device_that_no_topic_can_name_is_never_published_to(
    connection: sa.Connection, device_id: str, odd: str
) -> None:
    like = sa.select(sa.literal(odd), device.c.region_id, device.c.device_type, device.c.created_at)
    names = ["device_id", "region_id", "device_type", "created_at"]
    connection.execute(sa.insert(device).from_select(names, like.where(device.c.device_id == device_id)))
    with pytest.raises(Conflict, match="topic"):
        ask(connection, odd)


def test_unknown_devices_and_times_that_have_passed_are_refused(connection: sa.Connection, device_id: str) -> None:
    with pytest.raises(NotFound):
        ask(connection, "nobody")
    with pytest.raises(InvalidInput):
        ask(connection, device_id, seconds=0)
    with pytest.raises(NotFound):
        commands.get(connection, device_id, "nothing")
    assert commands.of_device(connection, device_id, limit=10) == []
    commands.mark_sent(connection, [], NOW, RETRY)
