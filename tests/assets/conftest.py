"""What the tests of several assets share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa

if TYPE_CHECKING:
    from tests.conftest import Pipeline


@pytest.fixture
def known(pipeline: Pipeline) -> Iterator[tuple[Pipeline, sa.Connection]]:
    """The pipeline and a connection to its database that is rolled back."""
    from energy_cloud_dagster.resources import Database
    from energy_cloud_dagster.resources.database import _engine

    with _engine(Database().resolved_url).connect() as opened, opened.begin() as transaction:
        yield pipeline, opened
        transaction.rollback()
