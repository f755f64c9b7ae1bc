"""Dispatch: plans on request; VPPs and resources that are made and removed over the API.

Revision ID: 20261122_0005
Revises: 20261122_0004
Create Date: 2026-11-22
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "20261122_0005"
down_revision = "20261122_0004"
branch_labels = None
depends_on = None

STAMP = sa.TIMESTAMP(timezone=True)


def upgrade() -> None:
    op.create_table(
        "optimization",
        sa.Column("optimization_id", sa.Text(), nullable=False),
        sa.Column("vpp_id", sa.Text(), nullable=False),
        sa.Column("requested_by", sa.Text(), nullable=False, comment="Account"),
        sa.Column("created_at", STAMP, nullable=False, comment="When it was solved"),
        sa.Column("problem", JSONB(), nullable=False, comment="The dispatch problem, as PLAN.json"),
        sa.Column("answer", JSONB(), nullable=False, comment="What was answered, without id and solve time"),
        sa.Column("digest", sa.Text(), nullable=False, comment="Over problem and answer"),
        sa.ForeignKeyConstraint(["vpp_id"], ["registry.vpp.vpp_id"], name=op.f("fk_optimization_vpp_id")),
        sa.PrimaryKeyConstraint("optimization_id", name=op.f("pk_optimization")),
        schema="dispatch",
        comment="Plans that were asked for over the API",
    )
    op.create_index("ix_optimization_vpp_id", "optimization", ["vpp_id", "created_at"], schema="dispatch")
    op.create_table(
        "vpp_event",
        sa.Column("event_id", sa.BigInteger(), sa.Identity(), nullable=False),
        sa.Column("vpp_id", sa.Text(), nullable=False),
        sa.Column("at", STAMP, nullable=False, comment="When it happened"),
        sa.Column("actor", sa.Text(), nullable=False, comment="Account"),
        sa.Column(
            "action", sa.Text(), nullable=False, comment="created, changed, deleted, resource_added or resource_removed"
        ),
        sa.Column("resource_id", sa.Text(), nullable=True),
        sa.Column("document", JSONB(), nullable=False, comment="The VPP or resource as it was from then on, or last"),
        sa.ForeignKeyConstraint(["vpp_id"], ["registry.vpp.vpp_id"], name=op.f("fk_vpp_event_vpp_id")),
        sa.PrimaryKeyConstraint("event_id", name=op.f("pk_vpp_event")),
        schema="audit",
        comment="Every change of a VPP and its resources",
    )
    op.create_index("ix_vpp_event_vpp_id", "vpp_event", ["vpp_id"], schema="audit")
    op.add_column(
        "vpp",
        sa.Column("deleted_at", STAMP, nullable=True, comment="When it was taken out of service; null: it stands"),
        schema="registry",
    )
    op.create_index(
        "uq_vpp_participant_id",
        "vpp",
        ["participant_id"],
        unique=True,
        schema="registry",
        postgresql_where=sa.text("deleted_at is null"),
    )
    op.add_column(
        "plan",
        sa.Column(
            "materialized_at",
            STAMP,
            nullable=True,
            comment="When it was computed; null: not known. Not part of the digest",
        ),
        schema="dispatch",
    )
    # After the column is there: plans of before keep a null.
    op.alter_column("plan", "materialized_at", server_default=sa.func.now(), schema="dispatch")
    op.add_column(
        "plan",
        sa.Column("run_id", sa.Text(), nullable=True, comment="Dagster run that last wrote it; not part of the digest"),
        schema="dispatch",
    )


def downgrade() -> None:
    op.drop_column("plan", "run_id", schema="dispatch")
    op.drop_column("plan", "materialized_at", schema="dispatch")
    op.drop_index("uq_vpp_participant_id", "vpp", schema="registry")
    op.drop_column("vpp", "deleted_at", schema="registry")
    op.drop_table("vpp_event", schema="audit")
    op.drop_table("optimization", schema="dispatch")
