"""Device tokens on the real database."""

from __future__ import annotations

import shutil
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

from energy_cloud_dagster.adapters import credentials, registry
from energy_cloud_dagster.adapters.database import driver
from energy_cloud_dagster.adapters.tables import credential, device
from energy_cloud_dagster.domain.errors import InvalidInput, NotFound
from energy_cloud_dagster.sample_data.community import SEOUL_COMMUNITY

NOW = datetime(2026, 3, 1, tzinfo=UTC)
GRACE = 60
METER = "SM-001"


@pytest.fixture
def seeded(connection: sa.Connection) -> sa.Connection:
    registry.seed(connection, SEOUL_COMMUNITY, NOW, demo_key="demo")
    connection.execute(sa.delete(credential))
    return connection


def test_a_token_opens_its_device_and_only_a_hash_is_kept(seeded: sa.Connection) -> None:
    first, second = (credentials.issue(seeded, METER, NOW) for _ in range(2))
    assert first != second
    for token in (first, second):
        assert credentials.authenticate(seeded, token, NOW) == METER
    kept = seeded.execute(sa.select(credential)).all()
    assert all(token.rsplit("_", 1)[1] not in str(kept) for token in (first, second))
    assert all(row.token_hash.startswith("$7$101$") for row in kept)


def test_nothing_but_the_token_opens_it(seeded: sa.Connection) -> None:
    token = credentials.issue(seeded, METER, NOW)
    prefix, credential_id, secret = token.split("_", 2)
    other = credentials.issue(seeded, "SM-TEST-001", NOW).split("_", 2)
    for wrong in (
        "",
        secret,
        token[:-1],
        token + "A",
        token.upper(),
        f" {token}",
        f"{prefix}_{credential_id}_{other[2]}",
        f"{prefix}_{other[1]}_{secret}",
        f"{prefix}_{'a' * 12}_{secret}",
    ):
        assert credentials.authenticate(seeded, wrong, NOW) is None


def test_while_a_token_is_rotated_both_hold_and_the_broker_wants_the_new_one(seeded: sa.Connection) -> None:
    old = credentials.issue(seeded, METER, NOW)
    new = credentials.rotate(seeded, METER, NOW, GRACE)
    last = NOW + timedelta(seconds=GRACE) - timedelta(microseconds=1)
    for at in (NOW, last):
        assert credentials.authenticate(seeded, old, at) == credentials.authenticate(seeded, new, at) == METER
    after = NOW + timedelta(seconds=GRACE)
    assert credentials.authenticate(seeded, old, after) is None
    assert credentials.authenticate(seeded, new, after) == METER
    (entry,) = credentials.broker_entries(seeded, NOW)
    assert entry[:3] == (METER, "seoul", "smart-meter")
    assert credentials.verify_password(new, entry.token_hash)
    assert credentials.alive_by_device(seeded, [METER, "BAT-001"], NOW) == {METER: 2}


def test_a_second_rotation_does_not_lengthen_the_first_one_s_grace(seeded: sa.Connection) -> None:
    oldest = credentials.issue(seeded, METER, NOW)
    old = credentials.rotate(seeded, METER, NOW, GRACE)
    later = NOW + timedelta(seconds=GRACE / 2)
    new = credentials.rotate(seeded, METER, later, GRACE)
    at = NOW + timedelta(seconds=GRACE)
    assert [credentials.authenticate(seeded, token, at) for token in (oldest, old, new)] == [None, METER, METER]
    assert credentials.rotate(seeded, METER, at, 0)
    assert credentials.authenticate(seeded, new, at) is None


def test_a_revoked_device_has_no_token_until_it_gets_another(seeded: sa.Connection) -> None:
    tokens = [credentials.issue(seeded, METER, NOW), credentials.rotate(seeded, METER, NOW, GRACE)]
    assert credentials.revoke(seeded, METER, NOW) == 2
    assert credentials.revoke(seeded, METER, NOW) == 0
    assert [credentials.authenticate(seeded, token, NOW) for token in tokens] == [None, None]
    assert credentials.broker_entries(seeded, NOW) == []
    again = credentials.rotate(seeded, METER, NOW, GRACE)
    assert credentials.authenticate(seeded, again, NOW) == METER


def test_who_cannot_have_a_token(seeded: sa.Connection) -> None:
    for act in (credentials.issue, credentials.revoke):
        with pytest.raises(NotFound, match="'SM-NONE' is not registered"):
            act(seeded, "SM-NONE", NOW)
    # MQTT ingest may have registered an id that no password file can hold
    values = {"device_id": "a:b", "region_id": "seoul", "device_type": "x", "created_at": NOW}
    seeded.execute(sa.insert(device).values(values))
    with pytest.raises(InvalidInput, match="cannot name a user"):
        credentials.issue(seeded, "a:b", NOW)


def test_every_change_is_told_once_it_is_committed(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        registry.seed(connection, SEOUL_COMMUNITY, NOW, demo_key="demo")
    with engine.execution_options(isolation_level="AUTOCOMMIT").connect() as listener:
        own = driver(listener)
        own.execute(f"listen {credentials.CHANNEL}")
        for change in (
            lambda c: credentials.issue(c, METER, NOW),
            lambda c: credentials.rotate(c, METER, NOW, GRACE),
            lambda c: credentials.revoke(c, METER, NOW),
            lambda c: credentials.forget(c, METER),
        ):
            with engine.begin() as writer:
                change(writer)
            assert [each.payload for each in own.notifies(timeout=5, stop_after=1)] == [METER]


@settings(max_examples=25, deadline=None)
@given(st.text(max_size=40), st.text(max_size=40))
def test_a_hash_holds_for_its_password_alone(password: str, other: str) -> None:
    password, other = (text.encode("utf-8", "ignore").decode() for text in (password, other))
    kept = credentials.hash_password(password)
    assert credentials.verify_password(password, kept)
    assert credentials.verify_password(other, kept) is (other == password)
    assert not credentials.verify_password(password, "plain")


@pytest.mark.skipif(shutil.which("mosquitto_passwd") is None, reason="mosquitto_passwd is not installed")
def test_a_hash_is_what_mosquitto_itself_writes(tmp_path: Path) -> None:
    file = tmp_path / "passwords"
    file.touch(mode=0o600)
    subprocess.run(["mosquitto_passwd", "-b", str(file), "ann", "secret"], check=True, capture_output=True)
    user, kept = file.read_text().strip().split(":")
    assert user == "ann"
    assert credentials.verify_password("secret", kept)
    assert [len(part) for part in kept.split("$")] == [len(p) for p in credentials.hash_password("x").split("$")]
