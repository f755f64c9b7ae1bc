"""Forecasting: which model was chosen and why, and how good the published forecasts were.

Revision ID: 20261122_0003
Revises: 20261122_0002
Create Date: 2026-11-22
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "20261122_0003"
down_revision = "20261122_0002"
branch_labels = None
depends_on = None

STAMP = sa.TIMESTAMP(timezone=True)


def upgrade() -> None:
    op.create_table(
        "selection",
        sa.Column("series_key", sa.Text(), nullable=False, comment="Such as region/seoul/load"),
        sa.Column("decided_at", STAMP, nullable=False, comment="As-of time: the models were fitted then, too"),
        sa.Column("champion", sa.Text(), nullable=False, comment="The model that the next stage uses"),
        sa.Column(
            "document",
            JSONB(),
            nullable=False,
            comment="Scores in the backtest, weights of the ensemble, calibrations, notes",
        ),
        sa.PrimaryKeyConstraint("series_key", "decided_at", name=op.f("pk_selection")),
        schema="forecast",
        comment="Which model proved best on the series' own last days",
    )
    op.create_table(
        "accuracy",
        sa.Column("series_key", sa.Text(), nullable=False, comment="Such as region/seoul/load"),
        sa.Column("day", sa.Date(), nullable=False, comment="Local day of the region"),
        sa.Column(
            "lead",
            sa.Text(),
            nullable=False,
            comment="day_ahead: as issued at the day's midnight; gate: as known when the market of each hour closed",
        ),
        sa.Column(
            "model", sa.Text(), nullable=False, comment="A model, or published: whatever was chosen hour by hour"
        ),
        sa.Column("hours", sa.Integer(), nullable=False, comment="Hours that were compared"),
        sa.Column("mape", sa.Double(), nullable=True, comment="Percent"),
        sa.Column("mae", sa.Double(), nullable=True, comment="kWh per hour"),
        sa.Column("rmse", sa.Double(), nullable=True, comment="kWh per hour"),
        sa.Column("mase", sa.Double(), nullable=True, comment="mae by the mean weekly change before the day"),
        sa.Column("bias", sa.Double(), nullable=True, comment="kWh per hour; positive forecast too much"),
        sa.Column("pinball", sa.Double(), nullable=True, comment="Mean of the three quantiles' losses, kWh"),
        sa.Column("coverage", sa.Double(), nullable=True, comment="Share of hours between P10 and P90"),
        sa.Column("rungs", JSONB(), nullable=False, comment="Hours by model and step of the ladder that answered"),
        sa.Column("scored_at", STAMP, nullable=False, comment="As-of time of the comparison"),
        sa.CheckConstraint("lead in ('day_ahead', 'gate')", name=op.f("ck_accuracy_lead")),
        sa.PrimaryKeyConstraint("series_key", "day", "lead", "model", name=op.f("pk_accuracy")),
        schema="forecast",
        comment="Published forecasts against what was measured, by day",
    )


def downgrade() -> None:
    op.drop_table("accuracy", schema="forecast")
    op.drop_table("selection", schema="forecast")
