"""Dispatch: what became of every planned hour.

Revision ID: 20261122_0007
Revises: 20261122_0006
Create Date: 2026-11-22
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "20261122_0007"
down_revision = "20261122_0006"
branch_labels = None
depends_on = None

STAMP = sa.TIMESTAMP(timezone=True)


def upgrade() -> None:
    op.create_table(
        "actual",
        sa.Column("vpp_id", sa.Text(), nullable=False),
        sa.Column("ts", STAMP, nullable=False, comment="Start of the hour"),
        sa.Column("resource_id", sa.Text(), nullable=False),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("issued_at", STAMP, nullable=False, comment="The now of the newest plan of the hour"),
        sa.Column(
            "planned_kw", sa.Double(), nullable=False, comment="Storage: discharge - charge; grid: import - export"
        ),
        sa.Column("actual_kw", sa.Double(), nullable=True, comment="Mean power of the hour; null: not known"),
        sa.Column("source", sa.Text(), nullable=False, comment="measured, balance (of the region's meters) or none"),
        sa.Column("planned_soc", sa.Double(), nullable=True, comment="At the end of the hour, fraction"),
        sa.Column("actual_soc", sa.Double(), nullable=True, comment="As last measured within the hour, fraction"),
        sa.Column("planned_cost", sa.Double(), nullable=False, comment="In the market's currency; exports earn"),
        sa.Column("actual_cost", sa.Double(), nullable=True, comment="Actual energy at the plan's costs"),
        sa.Column("compared_at", STAMP, nullable=False, comment="As-of time of the comparison"),
        sa.CheckConstraint("source in ('measured', 'balance', 'none')", name=op.f("ck_actual_source")),
        sa.PrimaryKeyConstraint("vpp_id", "ts", "resource_id", name=op.f("pk_actual")),
        schema="dispatch",
        comment="Planned against actual power of every resource of a VPP, by hour",
    )


def downgrade() -> None:
    op.drop_table("actual", schema="dispatch")
