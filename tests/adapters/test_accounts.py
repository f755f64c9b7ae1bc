"""Accounts on the real database."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from energy_cloud_dagster.adapters import accounts
from energy_cloud_dagster.adapters.tables import account
from energy_cloud_dagster.domain.errors import Conflict, InvalidInput, NotFound

PASSWORD = "correct horse battery"


def test_a_password_is_kept_as_argon2id_and_opens_its_account(connection: sa.Connection) -> None:
    made = accounts.add(connection, "ann", PASSWORD, "operator")
    kept = connection.execute(sa.select(account.c.password_hash).where(account.c.username == "ann")).scalar_one()
    assert kept.startswith("$argon2id$")
    assert PASSWORD not in kept
    assert accounts.authenticate(connection, "ann", PASSWORD) == made == accounts.find(connection, "ann")
    assert made in accounts.everyone(connection)


def test_nothing_else_opens_it(connection: sa.Connection) -> None:
    accounts.add(connection, "ann", PASSWORD, "operator")
    assert accounts.authenticate(connection, "ann", "correct horse") is None
    assert accounts.authenticate(connection, "bob", PASSWORD) is None
    assert accounts.set_disabled(connection, "ann").disabled
    assert accounts.authenticate(connection, "ann", PASSWORD) is None
    accounts.set_disabled(connection, "ann", disabled=False)
    assert accounts.authenticate(connection, "ann", PASSWORD) is not None


def test_a_hash_that_is_broken_opens_nothing(connection: sa.Connection) -> None:
    accounts.add(connection, "ann", PASSWORD, "operator")
    connection.execute(sa.update(account).where(account.c.username == "ann").values(password_hash="plain"))
    assert accounts.authenticate(connection, "ann", "plain") is None


def test_a_weaker_hash_is_renewed_at_login(connection: sa.Connection) -> None:
    from argon2 import PasswordHasher

    accounts.add(connection, "ann", PASSWORD, "operator")
    weak = PasswordHasher(time_cost=1, memory_cost=1024, parallelism=1).hash(PASSWORD)
    connection.execute(sa.update(account).where(account.c.username == "ann").values(password_hash=weak))
    assert accounts.authenticate(connection, "ann", PASSWORD) is not None
    renewed = connection.execute(sa.select(account.c.password_hash).where(account.c.username == "ann")).scalar_one()
    assert renewed != weak
    assert accounts.authenticate(connection, "ann", PASSWORD) is not None


def test_a_name_is_taken_once(connection: sa.Connection) -> None:
    accounts.add(connection, "ann", PASSWORD, "operator")
    with pytest.raises(Conflict, match="ann"):
        accounts.add(connection, "ann", PASSWORD, "viewer")


@pytest.mark.parametrize(
    ("changes", "pointer"),
    [
        ({"username": ""}, "/username"),
        ({"username": " ann"}, "/username"),
        ({"username": "a\nb"}, "/username"),
        ({"username": "a" * 129}, "/username"),
        ({"password": "short"}, "/password"),
        ({"password": "x" * 1025}, "/password"),
        ({"role": "king"}, "/role"),
        ({"participant_id": "HOME-99"}, "/participantId"),
    ],
    ids=str,
)
def test_a_faulty_account_is_refused_at_its_fault(
    connection: sa.Connection, changes: dict[str, str], pointer: str
) -> None:
    wanted = {"username": "ann", "password": PASSWORD, "role": "viewer"} | changes
    with pytest.raises(InvalidInput) as fault:
        accounts.add(connection, **wanted)
    assert fault.value.pointer == pointer


def test_the_first_start_makes_an_admin_and_tells_its_password_once(connection: sa.Connection) -> None:
    generated = accounts.bootstrap_admin(connection, "")
    assert generated is not None
    assert len(generated) >= 20
    admin = accounts.authenticate(connection, "admin", generated)
    assert admin is not None
    assert admin.role == "admin"
    assert accounts.bootstrap_admin(connection, "") is None
    assert accounts.bootstrap_admin(connection, "another password") is None
    assert accounts.authenticate(connection, "admin", "another password") is None


def test_a_given_password_is_not_told_back(connection: sa.Connection) -> None:
    assert accounts.bootstrap_admin(connection, PASSWORD) is None
    assert accounts.authenticate(connection, "admin", PASSWORD) is not None


def test_disabling_nobody_says_so(connection: sa.Connection) -> None:
    with pytest.raises(NotFound, match="nobody"):
        accounts.set_disabled(connection, "nobody")
