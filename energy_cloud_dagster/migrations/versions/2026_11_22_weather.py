"""Weather: forecasts as they were known.

Revision ID: 20261122_0004
Revises: 20261122_0003
Create Date: 2026-11-22
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "20261122_0004"
down_revision = "20261122_0003"
branch_labels = None
depends_on = None

STAMP = sa.TIMESTAMP(timezone=True)


def upgrade() -> None:
    op.create_table(
        "weather",
        sa.Column("location", sa.Text(), nullable=False, comment="lat,lng in degrees with two decimals"),
        sa.Column(
            "variable",
            sa.Text(),
            nullable=False,
            comment="temperature, humidity, irradiance, wind_speed, wind_direction or air_density",
        ),
        sa.Column("ts", STAMP, nullable=False, comment="Start of the hour that it is the mean of"),
        sa.Column("issued_at", STAMP, nullable=False, comment="When the platform knew"),
        sa.Column("value", sa.Double(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False, comment="Such as open-meteo"),
        sa.PrimaryKeyConstraint("location", "variable", "ts", "issued_at", name=op.f("pk_weather")),
        schema="forecast",
        comment="Weather forecasts as they were known; a row stands until a later one of its hour differs",
    )


def downgrade() -> None:
    op.drop_table("weather", schema="forecast")
