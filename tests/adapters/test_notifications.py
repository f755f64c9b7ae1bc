from __future__ import annotations

import queue

import sqlalchemy as sa

from energy_cloud_dagster.adapters.database import make_engine
from energy_cloud_dagster.adapters.notifications import Listener

_END_LISTENERS = """
select pg_terminate_backend(pid) from pg_stat_activity where query = 'listen "heard_test"' and pid <> pg_backend_pid()
"""


def test_what_is_told_is_heard_and_a_lost_connection_says_that_some_may_be_missing(
    engine: sa.Engine, database_url: str
) -> None:
    own, heard = make_engine(database_url), queue.Queue[str]()
    with Listener(own, "heard_test", heard.put):
        assert heard.get(timeout=10) == ""  # it listens; what was before is unknown
        for text in ("one", "two"):
            with engine.begin() as connection:
                connection.execute(sa.select(sa.func.pg_notify("heard_test", text)))
        assert [heard.get(timeout=10), heard.get(timeout=10)] == ["one", "two"]
        with engine.begin() as connection:
            assert connection.execute(sa.text(_END_LISTENERS)).all() == [(True,)]
        assert heard.get(timeout=10) == ""
        with engine.begin() as connection:
            connection.execute(sa.select(sa.func.pg_notify("heard_test", "three")))
        assert heard.get(timeout=10) == "three"
    with engine.begin() as connection:
        connection.execute(sa.select(sa.func.pg_notify("heard_test", "four")))
    assert heard.empty()
    own.dispose()
