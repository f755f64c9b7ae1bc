"""Dispatch: allocations that are applied; devices that the simulated fleet plays, and news of them.

Revision ID: 20261122_0006
Revises: 20261122_0005
Create Date: 2026-11-22
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import ARRAY

revision = "20261122_0006"
down_revision = "20261122_0005"
branch_labels = None
depends_on = None

STAMP = sa.TIMESTAMP(timezone=True)

# Whoever changes resources, the simulated fleet hears of it after the commit.
TELL_OF_RESOURCES = """
create or replace function registry.tell_of_resources() returns trigger language plpgsql as $$
begin
    perform pg_notify('resources', '');
    return null;
end
$$
"""


def upgrade() -> None:
    op.create_table(
        "allocation",
        sa.Column("allocation_id", sa.Text(), nullable=False),
        sa.Column("vpp_id", sa.Text(), nullable=False),
        sa.Column("optimization_id", sa.Text(), nullable=True, comment="Whose answer it is; null: given as such"),
        sa.Column("state", sa.Text(), nullable=False, comment="waiting (for an approval) or applied"),
        sa.Column("total_kw", sa.Double(), nullable=False, comment="Largest sum of absolute setpoints in one step"),
        sa.Column("starts_at", STAMP, nullable=False, comment="Start of its first step"),
        sa.Column("step_minutes", sa.Integer(), nullable=False),
        sa.Column("steps", sa.Integer(), nullable=False),
        sa.Column("requested_by", sa.Text(), nullable=False),
        sa.Column("created_at", STAMP, nullable=False, comment="When it was asked for"),
        sa.Column("approved_by", sa.Text(), nullable=True, comment="Null: it needed no approval, or waits for one"),
        sa.Column("applied_at", STAMP, nullable=True, comment="When its first commands were queued"),
        sa.CheckConstraint("state in ('waiting', 'applied')", name=op.f("ck_allocation_state")),
        sa.PrimaryKeyConstraint("allocation_id", name=op.f("pk_allocation")),
        sa.ForeignKeyConstraint(["vpp_id"], ["registry.vpp.vpp_id"], name=op.f("fk_allocation_vpp_id")),
        schema="dispatch",
        comment="Setpoints that somebody asked a VPP to hold",
    )
    op.create_index("ix_allocation_vpp_id", "allocation", ["vpp_id", "created_at"], schema="dispatch")
    op.create_table(
        "allocation_item",
        sa.Column("allocation_id", sa.Text(), nullable=False),
        sa.Column("resource_id", sa.Text(), nullable=False),
        sa.Column("vpp_id", sa.Text(), nullable=False),
        sa.Column("type", sa.Text(), nullable=False, comment="Of the resource"),
        sa.Column("device_id", sa.Text(), nullable=True, comment="That obeys; null: nothing can be commanded"),
        sa.Column("outputs", ARRAY(sa.Double()), nullable=False, comment="kW in each step, signed as in the problem"),
        sa.Column("step", sa.Integer(), nullable=True, comment="The step that was commanded last; null: none yet"),
        sa.Column("command_id", sa.Text(), nullable=True, comment="Its command"),
        sa.Column("commanded_at", STAMP, nullable=True, comment="When that was queued"),
        sa.Column("safe_kw", sa.Double(), nullable=True, comment="Setpoint of the fallback, where it fell back"),
        sa.Column("fallback_at", STAMP, nullable=True, comment="When its device was found silent; null: never"),
        sa.Column("ended_at", STAMP, nullable=True, comment="When a newer allocation or its end came; null: it stands"),
        sa.PrimaryKeyConstraint("allocation_id", "resource_id", name=op.f("pk_allocation_item")),
        sa.ForeignKeyConstraint(
            ["allocation_id"],
            ["dispatch.allocation.allocation_id"],
            name=op.f("fk_allocation_item_allocation_id"),
        ),
        sa.ForeignKeyConstraint(
            ["device_id"], ["registry.device.device_id"], name=op.f("fk_allocation_item_device_id")
        ),
        sa.ForeignKeyConstraint(
            ["command_id"], ["dispatch.command.command_id"], name=op.f("fk_allocation_item_command_id")
        ),
        schema="dispatch",
        comment="What an allocation asks of each resource, and how far that is",
    )
    op.create_index(
        "ix_allocation_item_standing",
        "allocation_item",
        ["vpp_id", "resource_id"],
        schema="dispatch",
        postgresql_where=sa.text("ended_at is null"),
    )
    op.add_column(
        "device",
        sa.Column(
            "simulated",
            sa.Boolean(),
            nullable=False,
            server_default=sa.false(),
            comment="Made for a resource without a device; the simulated fleet plays it",
        ),
        schema="registry",
    )
    op.execute(TELL_OF_RESOURCES)
    op.execute(
        "create trigger tell_of_resources after insert or update or delete on registry.vpp_resource "
        "for each statement execute function registry.tell_of_resources()"
    )


def downgrade() -> None:
    op.execute("drop trigger tell_of_resources on registry.vpp_resource")
    op.execute("drop function registry.tell_of_resources()")
    op.drop_column("device", "simulated", schema="registry")
    op.drop_table("allocation_item", schema="dispatch")
    op.drop_table("allocation", schema="dispatch")
