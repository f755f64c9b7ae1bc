"""Streaming: device credentials, the command outbox, answered requests, archived days.

Revision ID: 20261122_0002
Revises: 20261122_0001
Create Date: 2026-11-22
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import BYTEA, JSONB

revision = "20261122_0002"
down_revision = "20261122_0001"
branch_labels = None
depends_on = None

STAMP = sa.TIMESTAMP(timezone=True)

# As in the first schema, but a day exists where its partition is attached, not where a table has its name: retention
# detaches a day before it drops it, and a reading that comes late for such a day must find a place all the same. A
# detach that was interrupted is finished; the detached table steps aside under another name until retention drops it.
ENSURE_READING_DAY = """
create or replace function raw.ensure_reading_day(day date) returns boolean language plpgsql set timezone to 'UTC' as $$
declare
    name text := format('reading_%s', to_char(day, 'YYYY_MM_DD'));
    lower_bound timestamptz := day::timestamp at time zone 'UTC';
    upper_bound timestamptz := (day + 1)::timestamp at time zone 'UTC';
    leaving boolean;
begin
    select inhdetachpending into leaving from pg_inherits
    where inhparent = 'raw.reading'::regclass and inhrelid = to_regclass(format('raw.%I', name));
    if not leaving then
        return false;
    end if;
    lock table raw.reading in share update exclusive mode;
    select inhdetachpending into leaving from pg_inherits
    where inhparent = 'raw.reading'::regclass and inhrelid = to_regclass(format('raw.%I', name));
    if not leaving then
        return false;
    end if;
    if leaving then
        execute format('alter table raw.reading detach partition raw.%I finalize', name);
    end if;
    if to_regclass(format('raw.%I', name)) is not null then
        execute format('alter table if exists raw.%I rename to %I', name,
                       format('%s_left_%s', name, pg_current_xact_id()));
    end if;
    execute format('create table raw.%I (like raw.reading including all)', name);
    execute format('alter table raw.%I add constraint day check (ts >= %L and ts < %L)',
                   name, lower_bound, upper_bound);
    execute format('alter table raw.reading attach partition raw.%I for values from (%L) to (%L)',
                   name, lower_bound, upper_bound);
    execute format('alter table raw.%I drop constraint day', name);
    return true;
end
$$
"""


def upgrade() -> None:
    op.drop_column("device", "token_hash", schema="registry")
    op.add_column(
        "device",
        sa.Column("metadata", JSONB(), nullable=True, comment="What it last said of itself: type, firmware …"),
        schema="registry",
    )
    op.create_table(
        "credential",
        sa.Column("credential_id", sa.Text(), nullable=False, comment="Public part of a device token"),
        sa.Column("device_id", sa.Text(), nullable=False),
        sa.Column("token_hash", sa.Text(), nullable=False, comment="PBKDF2-SHA512 as mosquitto's password file has it"),
        sa.Column(
            "config_key",
            sa.Text(),
            nullable=True,
            comment="Signs the device's configuration: derived from the token, hex",
        ),
        sa.Column("created_at", STAMP, nullable=False, comment="When it was issued"),
        sa.Column("expires_at", STAMP, nullable=True, comment="End of the grace after a rotation; null: none"),
        sa.Column("revoked_at", STAMP, nullable=True, comment="When it was revoked; null: never"),
        sa.PrimaryKeyConstraint("credential_id", name=op.f("pk_credential")),
        sa.ForeignKeyConstraint(["device_id"], ["registry.device.device_id"], name=op.f("fk_credential_device_id")),
        schema="registry",
        comment="Tokens of devices; more than one is valid while one is being rotated",
    )
    op.create_index("ix_credential_device_id", "credential", ["device_id"], schema="registry")
    op.create_index(
        "ix_reading_received_at",
        "reading",
        ["received_at"],
        schema="raw",
        postgresql_using="brin",
        postgresql_with={"pages_per_range": 16, "autosummarize": True},
    )
    op.create_table(
        "request",
        sa.Column("caller", sa.Text(), nullable=False, comment="Account or device that wrote"),
        sa.Column("idempotency_key", sa.Text(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False, comment="SHA-256 of method, path and body"),
        sa.Column("status", sa.SmallInteger(), nullable=False),
        sa.Column("answer", BYTEA(), nullable=False, comment="The body that was answered"),
        sa.Column("created_at", STAMP, nullable=False, comment="When it was answered"),
        sa.PrimaryKeyConstraint("caller", "idempotency_key", name=op.f("pk_request")),
        schema="raw",
        comment="Answered writes by Idempotency-Key, committed with what they wrote",
    )
    op.create_index("ix_request_created_at", "request", ["created_at"], schema="raw")
    op.create_table(
        "archived_day",
        sa.Column("day", sa.Date(), nullable=False, comment="UTC day of ts"),
        sa.Column("uri", sa.Text(), nullable=False, comment="Where the Parquet file lies"),
        sa.Column("revision", sa.Integer(), nullable=False, comment="1, 2 … each time the day was archived anew"),
        sa.Column("rows", sa.BigInteger(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False, comment="Of the file"),
        sa.Column("sha256", sa.Text(), nullable=False, comment="Of the file"),
        sa.Column("digest", sa.Text(), nullable=False, comment="Of the rows, equal in the file and in the database"),
        sa.Column("archived_at", STAMP, nullable=False, comment="When it was written and read back"),
        sa.Column(
            "dropped_at",
            STAMP,
            nullable=True,
            comment="When retention removed the day from the database; null: it is there",
        ),
        sa.Column(
            "keep_until", STAMP, nullable=True, comment="A restored day stays until then; null: retention decides"
        ),
        sa.PrimaryKeyConstraint("day", name=op.f("pk_archived_day")),
        schema="raw",
        comment="Days of readings that lie in the archive",
    )
    op.create_table(
        "command",
        sa.Column("command_id", sa.Text(), nullable=False),
        sa.Column("device_id", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False, comment="command or config, which is also the topic's last level"),
        sa.Column("topic", sa.Text(), nullable=False),
        sa.Column(
            "payload", JSONB(), nullable=False, comment="The document that is published; a config is signed then"
        ),
        sa.Column("version", sa.Integer(), nullable=True, comment="Of a config: 1, 2 … by device"),
        sa.Column("state", sa.Text(), nullable=False, comment="queued, sent, accepted, done, rejected or expired"),
        sa.Column("reason", sa.Text(), nullable=True, comment="Why it was rejected or expired"),
        sa.Column("requested_by", sa.Text(), nullable=False),
        sa.Column("created_at", STAMP, nullable=False, comment="When it was asked for"),
        sa.Column("valid_until", STAMP, nullable=False, comment="It expires unless it is done by then"),
        sa.Column("attempts", sa.Integer(), server_default="0", nullable=False, comment="How often it was published"),
        sa.Column("next_attempt_at", STAMP, nullable=True, comment="When it is published (again); null: never"),
        sa.Column("updated_at", STAMP, nullable=False, comment="Of its last transition"),
        sa.CheckConstraint("kind in ('command', 'config')", name=op.f("ck_command_kind")),
        sa.CheckConstraint(
            "state in ('queued', 'sent', 'accepted', 'done', 'rejected', 'expired')", name=op.f("ck_command_state")
        ),
        sa.PrimaryKeyConstraint("command_id", name=op.f("pk_command")),
        sa.ForeignKeyConstraint(["device_id"], ["registry.device.device_id"], name=op.f("fk_command_device_id")),
        schema="dispatch",
        comment="Outbox of what the cloud asks of devices",
    )
    op.create_index("ix_command_device_id", "command", ["device_id", "created_at"], schema="dispatch")
    op.create_index(
        "ix_command_open",
        "command",
        ["next_attempt_at"],
        schema="dispatch",
        postgresql_where=sa.text("state in ('queued', 'sent', 'accepted')"),
    )
    op.create_table(
        "command_event",
        sa.Column("event_id", sa.BigInteger(), sa.Identity(), nullable=False),
        sa.Column("command_id", sa.Text(), nullable=False),
        sa.Column("at", STAMP, nullable=False, comment="When it happened"),
        sa.Column("state", sa.Text(), nullable=False, comment="The state that it entered"),
        sa.Column("actor", sa.Text(), nullable=False, comment="Account, device or outbox"),
        sa.Column("detail", sa.Text(), server_default="", nullable=False),
        sa.PrimaryKeyConstraint("event_id", name=op.f("pk_command_event")),
        sa.ForeignKeyConstraint(
            ["command_id"], ["dispatch.command.command_id"], name=op.f("fk_command_event_command_id")
        ),
        schema="audit",
        comment="Every transition of every command",
    )
    op.create_index("ix_command_event_command_id", "command_event", ["command_id"], schema="audit")
    op.execute(ENSURE_READING_DAY)


def downgrade() -> None:
    # raw.ensure_reading_day stays as it is: the older schema can use it, and drops it
    op.drop_table("command_event", schema="audit")
    op.drop_table("command", schema="dispatch")
    op.drop_table("archived_day", schema="raw")
    op.drop_table("request", schema="raw")
    op.drop_index("ix_reading_received_at", "reading", schema="raw")
    op.drop_table("credential", schema="registry")
    op.drop_column("device", "metadata", schema="registry")
    op.add_column("device", sa.Column("token_hash", sa.Text(), nullable=True), schema="registry")
