"""First schema: registry, readings, forecasts, dispatch, market, settlement and audit.

Revision ID: 20261122_0001
Revises: none
Create Date: 2026-11-22
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "20261122_0001"
down_revision = None
branch_labels = None
depends_on = None

SCHEMAS = ("registry", "raw", "validated", "forecast", "dispatch", "market", "settlement", "audit")

# raw.reading has one partition a day, named reading_2026_11_22. A partition is made apart from the parent, with a CHECK
# that spares ATTACH its scan, so that writers and readers of other days go on; there is no default partition, which
# would have to be scanned by every ATTACH. The lock, which ATTACH takes anyway, lets workers ask for one day at once.
# Where TimescaleDB is installed a later migration may turn raw.reading into a hypertable; this function then becomes
# a no-op and every reader's and writer's SQL stays as it is.
ENSURE_READING_DAY = """
create function raw.ensure_reading_day(day date) returns boolean language plpgsql set timezone to 'UTC' as $$
declare
    name text := format('reading_%s', to_char(day, 'YYYY_MM_DD'));
    lower_bound timestamptz := day::timestamp at time zone 'UTC';
    upper_bound timestamptz := (day + 1)::timestamp at time zone 'UTC';
begin
    if to_regclass(format('raw.%I', name)) is not null then
        return false;
    end if;
    lock table raw.reading in share update exclusive mode;
    if to_regclass(format('raw.%I', name)) is not null then
        return false;
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
    for schema in SCHEMAS:
        op.execute(f"create schema if not exists {schema}")
    op.create_table(
        "step",
        sa.Column(
            "step",
            sa.Text(),
            nullable=False,
            comment="readings, validated, forecast, plan, orders, clearing, settlement",
        ),
        sa.Column("scope", sa.Text(), nullable=False, comment="Region, VPP, market or participant"),
        sa.Column("hour", sa.TIMESTAMP(timezone=True), nullable=False, comment="The delivery hour that it speaks of"),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("rows", sa.Integer(), nullable=False),
        sa.Column(
            "run_id", sa.Text(), nullable=False, comment="Dagster run that last wrote it; not part of any digest"
        ),
        sa.PrimaryKeyConstraint("step", "scope", "hour", name=op.f("pk_step")),
        schema="audit",
        comment="The digest of each step's rows, by delivery hour",
    )
    op.create_table(
        "price",
        sa.Column("market_id", sa.Text(), nullable=False),
        sa.Column("hour", sa.TIMESTAMP(timezone=True), nullable=False, comment="Hour that the prices hold in"),
        sa.Column("import_price_micro", sa.BigInteger(), nullable=False, comment="Retail tariff per kWh"),
        sa.Column(
            "export_price_micro", sa.BigInteger(), nullable=False, comment="Feed-in price per kWh, 0 to the tariff"
        ),
        sa.Column("published_at", sa.TIMESTAMP(timezone=True), nullable=False, comment="When the platform knew"),
        sa.PrimaryKeyConstraint("market_id", "hour", name=op.f("pk_price")),
        schema="market",
        comment="What energy costs outside the market",
    )
    op.create_table(
        "plan",
        sa.Column("vpp_id", sa.Text(), nullable=False),
        sa.Column("issued_at", sa.TIMESTAMP(timezone=True), nullable=False, comment="The now of the plan"),
        sa.Column("plan_start", sa.TIMESTAMP(timezone=True), nullable=False, comment="Start of its first step"),
        sa.Column("solver", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("cost", sa.Double(), nullable=False, comment="Whole horizon, in the market's currency"),
        sa.Column("unmet_kwh", sa.Double(), nullable=False),
        sa.Column("renewable_ratio", sa.Double(), nullable=True),
        sa.Column(
            "problem",
            postgresql.JSONB(astext_type=sa.Text()),
            nullable=False,
            comment="The dispatch problem, as PLAN.json",
        ),
        sa.Column(
            "solution",
            postgresql.JSONB(astext_type=sa.Text()),
            nullable=False,
            comment="The answer, as INTERFACES describes it, without solve time",
        ),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("vpp_id", "issued_at", name=op.f("pk_plan")),
        schema="dispatch",
    )
    op.create_table(
        "setpoint",
        sa.Column("vpp_id", sa.Text(), nullable=False),
        sa.Column("issued_at", sa.TIMESTAMP(timezone=True), nullable=False, comment="The now of the plan"),
        sa.Column("resource_id", sa.Text(), nullable=False),
        sa.Column("ts", sa.TIMESTAMP(timezone=True), nullable=False, comment="Start of the step"),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column(
            "output_kw", sa.Double(), nullable=False, comment="Storage: discharge - charge; grid: import - export"
        ),
        sa.Column("available_kw", sa.Double(), nullable=True),
        sa.Column("soc", sa.Double(), nullable=True, comment="State of charge at the end of the step, fraction"),
        sa.Column("marginal_price", sa.Double(), nullable=False, comment="Dual of the balance, per kWh"),
        sa.PrimaryKeyConstraint("vpp_id", "issued_at", "resource_id", "ts", name=op.f("pk_setpoint")),
        schema="dispatch",
    )
    op.create_table(
        "model",
        sa.Column("series_key", sa.Text(), nullable=False, comment="Such as region/seoul/load"),
        sa.Column("model", sa.Text(), nullable=False, comment="prophet …"),
        sa.Column("fitted_at", sa.TIMESTAMP(timezone=True), nullable=False, comment="As-of time of the fit"),
        sa.Column("train_start", sa.TIMESTAMP(timezone=True), nullable=False, comment="First hour it saw"),
        sa.Column("train_end", sa.TIMESTAMP(timezone=True), nullable=False, comment="End of the last hour it saw"),
        sa.Column("artifact", sa.Text(), nullable=False, comment="The serialised model"),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column(
            "metrics",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default="{}",
            nullable=False,
            comment="Accuracy on its last held-out days",
        ),
        sa.PrimaryKeyConstraint("series_key", "model", "fitted_at", name=op.f("pk_model")),
        schema="forecast",
    )
    op.create_table(
        "point",
        sa.Column(
            "series_key",
            sa.Text(),
            nullable=False,
            comment="region/{id}/load, site/{id}/load, resource/{vpp}/{id}/availability",
        ),
        sa.Column("issued_at", sa.TIMESTAMP(timezone=True), nullable=False, comment="The now of the forecast"),
        sa.Column("model", sa.Text(), nullable=False, comment="prophet, seasonal_naive, similar_day …"),
        sa.Column("ts", sa.TIMESTAMP(timezone=True), nullable=False, comment="Start of the hour that is forecast"),
        sa.Column("p10", sa.Double(), nullable=False, comment="kWh, or a fraction for availability"),
        sa.Column("p50", sa.Double(), nullable=False),
        sa.Column("p90", sa.Double(), nullable=False),
        sa.Column("chosen", sa.Boolean(), nullable=False, comment="Whether the next stage uses this model"),
        sa.Column("rung", sa.Text(), nullable=False, comment="champion, similar_day or persistence"),
        sa.PrimaryKeyConstraint("series_key", "issued_at", "model", "ts", name=op.f("pk_point")),
        schema="forecast",
    )
    op.create_index("ix_point_issued_at", "point", ["issued_at"], unique=False, schema="forecast")
    op.create_table(
        "clearing",
        sa.Column("market_id", sa.Text(), nullable=False),
        sa.Column("delivery_start", sa.TIMESTAMP(timezone=True), nullable=False, comment="Hour of delivery"),
        sa.Column("gate_closure", sa.TIMESTAMP(timezone=True), nullable=False, comment="When the book closed"),
        sa.Column(
            "price_micro", sa.BigInteger(), nullable=True, comment="Uniform price per kWh; null: nothing crossed"
        ),
        sa.Column("volume_wh", sa.BigInteger(), nullable=False),
        sa.Column("import_price_micro", sa.BigInteger(), nullable=False, comment="Retail tariff of the hour per kWh"),
        sa.Column("export_price_micro", sa.BigInteger(), nullable=False, comment="Feed-in price of the hour per kWh"),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("market_id", "delivery_start", name=op.f("pk_clearing")),
        schema="market",
    )
    op.create_table(
        "order",
        sa.Column("order_id", sa.Text(), nullable=False),
        sa.Column("market_id", sa.Text(), nullable=False),
        sa.Column("delivery_start", sa.TIMESTAMP(timezone=True), nullable=False, comment="Hour of delivery"),
        sa.Column("participant_id", sa.Text(), nullable=False),
        sa.Column("side", sa.Text(), nullable=False, comment="buy or sell"),
        sa.Column("quantity_wh", sa.BigInteger(), nullable=False),
        sa.Column("price_micro", sa.BigInteger(), nullable=False, comment="Limit per kWh"),
        sa.Column("filled_wh", sa.BigInteger(), nullable=False, comment="What the auction gave it"),
        sa.Column("placed_at", sa.TIMESTAMP(timezone=True), nullable=False, comment="Time priority"),
        sa.CheckConstraint("side in ('buy', 'sell')", name=op.f("ck_order_side")),
        sa.PrimaryKeyConstraint("order_id", name=op.f("pk_order")),
        schema="market",
    )
    op.create_index("ix_order_delivery_start", "order", ["delivery_start"], unique=False, schema="market")
    op.create_table(
        "trade",
        sa.Column("trade_id", sa.Text(), nullable=False),
        sa.Column("market_id", sa.Text(), nullable=False),
        sa.Column("delivery_start", sa.TIMESTAMP(timezone=True), nullable=False, comment="Hour of delivery"),
        sa.Column("buy_order_id", sa.Text(), nullable=False),
        sa.Column("sell_order_id", sa.Text(), nullable=False),
        sa.Column("buyer_id", sa.Text(), nullable=False),
        sa.Column("seller_id", sa.Text(), nullable=False),
        sa.Column("quantity_wh", sa.BigInteger(), nullable=False),
        sa.Column("price_micro", sa.BigInteger(), nullable=False, comment="Per kWh"),
        sa.Column("value_micro", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("trade_id", name=op.f("pk_trade")),
        schema="market",
    )
    op.create_index("ix_trade_delivery_start", "trade", ["delivery_start"], unique=False, schema="market")
    op.create_table(
        "reading",
        sa.Column("series_id", sa.Integer(), autoincrement=False, nullable=False, comment="registry.series"),
        sa.Column("ts", sa.TIMESTAMP(timezone=True), nullable=False, comment="Start of the interval"),
        sa.Column(
            "revision", sa.SmallInteger(), autoincrement=False, nullable=False, comment="1, 2 … in order of receipt"
        ),
        sa.Column("value", sa.Double(), nullable=False, comment="In the unit of its series"),
        sa.Column("quality", sa.Text(), nullable=False, comment="high, medium, low or bad, as the device said"),
        sa.Column("received_at", sa.TIMESTAMP(timezone=True), nullable=False, comment="When the platform knew"),
        sa.Column("source", sa.Text(), nullable=False, comment="mqtt, rest, opcua or history"),
        sa.PrimaryKeyConstraint("series_id", "ts", "revision", name=op.f("pk_reading")),
        schema="raw",
        comment="Immutable, partitioned by day of ts; a correction is a new revision",
        postgresql_partition_by="RANGE (ts)",
    )
    op.create_index("ix_reading_ts", "reading", ["ts"], unique=False, schema="raw")
    op.create_table(
        "rejected",
        sa.Column("rejected_id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("received_at", sa.TIMESTAMP(timezone=True), nullable=False, comment="When it arrived"),
        sa.Column("source", sa.Text(), nullable=False, comment="mqtt, rest, opcua or history"),
        sa.Column("topic", sa.Text(), nullable=False, comment="Topic, path or node id"),
        sa.Column(
            "payload",
            postgresql.BYTEA(),
            nullable=False,
            comment="The bytes as they came, cut to the largest accepted size",
        ),
        sa.Column("reason", sa.Text(), nullable=False, comment="snake_case code"),
        sa.Column("detail", sa.Text(), nullable=False, comment="What was wrong and what to fix"),
        sa.PrimaryKeyConstraint("rejected_id", name=op.f("pk_rejected")),
        schema="raw",
        comment="Every message that could not be stored, with its reason",
    )
    op.create_index("ix_rejected_received_at", "rejected", ["received_at"], unique=False, schema="raw")
    op.create_table(
        "market",
        sa.Column("market_id", sa.Text(), nullable=False, comment="Such as KRW-KWH"),
        sa.Column("currency", sa.Text(), nullable=False, comment="ISO 4217"),
        sa.PrimaryKeyConstraint("market_id", name=op.f("pk_market")),
        schema="registry",
    )
    op.create_table(
        "batch",
        sa.Column("batch_id", sa.Text(), nullable=False, comment="0x + 64 hex digits, from (market, hour, revision)"),
        sa.Column("market_id", sa.Text(), nullable=False),
        sa.Column("delivery_start", sa.TIMESTAMP(timezone=True), nullable=False, comment="Hour of delivery"),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column(
            "known_at",
            sa.TIMESTAMP(timezone=True),
            nullable=False,
            comment="It rests on the readings received up to here",
        ),
        sa.Column("merkle_root", sa.Text(), nullable=False, comment="0x + 64 hex digits"),
        sa.Column("trades", sa.Integer(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False, comment="Over positions and settled trades"),
        sa.Column("state", sa.Text(), nullable=False, comment="intended, sent, confirmed or failed"),
        sa.Column("contract", sa.Text(), nullable=False),
        sa.Column("chain_id", sa.BigInteger(), nullable=False),
        sa.Column("tx_hash", sa.Text(), nullable=True),
        sa.Column("block_number", sa.BigInteger(), nullable=True),
        sa.Column("gas_used", sa.BigInteger(), nullable=True),
        sa.Column("confirmed_at", sa.TIMESTAMP(timezone=True), nullable=True, comment="Time of its block"),
        sa.CheckConstraint("state in ('intended', 'sent', 'confirmed', 'failed')", name=op.f("ck_batch_state")),
        sa.PrimaryKeyConstraint("batch_id", name=op.f("pk_batch")),
        sa.UniqueConstraint(
            "market_id", "delivery_start", "revision", name=op.f("uq_batch_market_id_delivery_start_revision")
        ),
        schema="settlement",
    )
    op.create_table(
        "hour",
        sa.Column("region_id", sa.Text(), nullable=False),
        sa.Column("hour", sa.TIMESTAMP(timezone=True), nullable=False, comment="Start of the hour"),
        sa.Column("rows_read", sa.Integer(), nullable=False),
        sa.Column("rows_valid", sa.Integer(), nullable=False),
        sa.Column("rows_quarantined", sa.Integer(), nullable=False),
        sa.Column("expected", sa.Integer(), nullable=False, comment="Readings that the registry expects"),
        sa.Column("complete", sa.Boolean(), nullable=False, comment="Whether settlement may use it"),
        sa.Column(
            "missing",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default="[]",
            nullable=False,
            comment="[device/metric] without a valid reading",
        ),
        sa.Column(
            "known_at",
            sa.TIMESTAMP(timezone=True),
            nullable=True,
            comment="Latest receipt among the readings it saw",
        ),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("region_id", "hour", name=op.f("pk_hour")),
        schema="validated",
        comment="What the validation of one hour found",
    )
    op.create_table(
        "quarantine",
        sa.Column("quarantine_id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("series_id", sa.Integer(), nullable=False),
        sa.Column("ts", sa.TIMESTAMP(timezone=True), nullable=False, comment="Start of the interval"),
        sa.Column("revision", sa.SmallInteger(), nullable=False),
        sa.Column("value", sa.Double(), nullable=False),
        sa.Column("quality", sa.Text(), nullable=False),
        sa.Column("received_at", sa.TIMESTAMP(timezone=True), nullable=False, comment="When the platform knew"),
        sa.Column("rule", sa.Text(), nullable=False, comment="Name of the rule that it failed"),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), server_default="held", nullable=False, comment="held, released or confirmed"),
        sa.CheckConstraint("state in ('held', 'released', 'confirmed')", name=op.f("ck_quarantine_state")),
        sa.PrimaryKeyConstraint("quarantine_id", name=op.f("pk_quarantine")),
        sa.UniqueConstraint(
            "series_id", "ts", "revision", "rule", name=op.f("uq_quarantine_series_id_ts_revision_rule")
        ),
        schema="validated",
        comment="Every reading that failed a rule, until someone decides",
    )
    op.create_index("ix_quarantine_ts", "quarantine", ["ts"], unique=False, schema="validated")
    op.create_table(
        "reading",
        sa.Column("series_id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("ts", sa.TIMESTAMP(timezone=True), nullable=False, comment="Start of the interval"),
        sa.Column("revision", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("value", sa.Double(), nullable=False),
        sa.Column("quality", sa.Text(), nullable=False),
        sa.Column("received_at", sa.TIMESTAMP(timezone=True), nullable=False, comment="When the platform knew"),
        sa.PrimaryKeyConstraint("series_id", "ts", "revision", name=op.f("pk_reading")),
        schema="validated",
        comment="Every revision that passed the row rules",
    )
    op.create_index("ix_validated_reading_ts", "reading", ["ts"], unique=False, schema="validated")
    op.create_table(
        "evidence",
        sa.Column("batch_id", sa.Text(), nullable=False),
        sa.Column("trade_id", sa.Text(), nullable=False),
        sa.Column("leaf_index", sa.Integer(), nullable=False),
        sa.Column(
            "document",
            postgresql.JSONB(astext_type=sa.Text()),
            nullable=False,
            comment="The evidence document whose canonical form is the leaf",
        ),
        sa.Column("leaf", sa.Text(), nullable=False, comment="0x + 64 hex digits"),
        sa.Column(
            "proof", postgresql.JSONB(astext_type=sa.Text()), nullable=False, comment="Sibling hashes from the leaf up"
        ),
        sa.ForeignKeyConstraint(["batch_id"], ["settlement.batch.batch_id"], name=op.f("fk_evidence_batch_id")),
        sa.PrimaryKeyConstraint("batch_id", "trade_id", name=op.f("pk_evidence")),
        schema="audit",
    )
    op.create_table(
        "region",
        sa.Column("region_id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("timezone", sa.Text(), nullable=False, comment="IANA name; used at the edges only"),
        sa.Column("market_id", sa.Text(), nullable=False),
        sa.Column("grid_id", sa.Text(), nullable=False),
        sa.Column("aliases", postgresql.ARRAY(sa.Text()), server_default="{}", nullable=False),
        sa.Column(
            "operating_since",
            sa.TIMESTAMP(timezone=True),
            nullable=True,
            comment="First hour that schedules work on; null: none",
        ),
        sa.ForeignKeyConstraint(["market_id"], ["registry.market.market_id"], name=op.f("fk_region_market_id")),
        sa.PrimaryKeyConstraint("region_id", name=op.f("pk_region")),
        schema="registry",
    )
    op.create_table(
        "position",
        sa.Column("batch_id", sa.Text(), nullable=False),
        sa.Column("participant_id", sa.Text(), nullable=False),
        sa.Column("account", sa.Text(), nullable=False),
        sa.Column("traded_wh", sa.BigInteger(), nullable=False, comment="Sold positive, bought negative"),
        sa.Column(
            "scheduled_wh", sa.BigInteger(), nullable=False, comment="Net injection that the participant owes the grid"
        ),
        sa.Column(
            "metered_wh", sa.BigInteger(), nullable=False, comment="Measured net injection; consumption is negative"
        ),
        sa.Column("deviation_wh", sa.BigInteger(), nullable=False, comment="metered - scheduled"),
        sa.Column("trade_micro", sa.BigInteger(), nullable=False, comment="Earned positive, owed negative"),
        sa.Column("imbalance_micro", sa.BigInteger(), nullable=False),
        sa.Column("net_micro", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["batch_id"], ["settlement.batch.batch_id"], name=op.f("fk_position_batch_id")),
        sa.PrimaryKeyConstraint("batch_id", "participant_id", name=op.f("pk_position")),
        schema="settlement",
    )
    op.create_table(
        "trade",
        sa.Column("batch_id", sa.Text(), nullable=False),
        sa.Column("trade_id", sa.Text(), nullable=False),
        sa.Column(
            "delivered_wh", sa.BigInteger(), nullable=False, comment="Covered by the seller's own metered injection"
        ),
        sa.Column(
            "shortfall_wh", sa.BigInteger(), nullable=False, comment="Bought from the grid on the seller's account"
        ),
        sa.Column("value_micro", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["batch_id"], ["settlement.batch.batch_id"], name=op.f("fk_trade_batch_id")),
        sa.PrimaryKeyConstraint("batch_id", "trade_id", name=op.f("pk_trade")),
        schema="settlement",
    )
    op.create_index("ix_settlement_trade_trade_id", "trade", ["trade_id"], unique=False, schema="settlement")
    op.create_table(
        "participant",
        sa.Column("participant_id", sa.Text(), nullable=False),
        sa.Column("region_id", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False, comment="prosumer, vpp or grid"),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("account", sa.Text(), nullable=False, comment="Account on the chain, a checksummed address"),
        sa.Column(
            "salt", postgresql.BYTEA(), nullable=True, comment="Salts this subject's digests; erasing it unlinks them"
        ),
        sa.CheckConstraint("kind in ('prosumer', 'vpp', 'grid')", name=op.f("ck_participant_kind")),
        sa.ForeignKeyConstraint(["region_id"], ["registry.region.region_id"], name=op.f("fk_participant_region_id")),
        sa.PrimaryKeyConstraint("participant_id", name=op.f("pk_participant")),
        schema="registry",
    )
    op.create_table(
        "account",
        sa.Column("username", sa.Text(), nullable=False),
        sa.Column("password_hash", sa.Text(), nullable=False, comment="argon2id"),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("participant_id", sa.Text(), nullable=True),
        sa.Column("disabled", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("created_at", sa.TIMESTAMP(timezone=True), nullable=False, comment="When it was made"),
        sa.CheckConstraint(
            "role in ('admin', 'operator', 'trader', 'auditor', 'device', 'viewer')", name=op.f("ck_account_role")
        ),
        sa.ForeignKeyConstraint(
            ["participant_id"], ["registry.participant.participant_id"], name=op.f("fk_account_participant_id")
        ),
        sa.PrimaryKeyConstraint("username", name=op.f("pk_account")),
        schema="registry",
    )
    op.create_table(
        "device",
        sa.Column("device_id", sa.Text(), nullable=False),
        sa.Column("region_id", sa.Text(), nullable=False),
        sa.Column(
            "device_type", sa.Text(), nullable=False, comment="The third topic level: smart-meter, inverter, battery …"
        ),
        sa.Column("customer_class", sa.Text(), nullable=True, comment="residential, commercial or industrial"),
        sa.Column("participant_id", sa.Text(), nullable=True),
        sa.Column(
            "interval_minutes", sa.Integer(), server_default="15", nullable=False, comment="Length of its intervals"
        ),
        sa.Column("verified", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("token_hash", sa.Text(), nullable=True),
        sa.Column("created_at", sa.TIMESTAMP(timezone=True), nullable=False, comment="When it was registered"),
        sa.CheckConstraint(
            "customer_class in ('residential', 'commercial', 'industrial')", name=op.f("ck_device_customer_class")
        ),
        sa.ForeignKeyConstraint(
            ["participant_id"], ["registry.participant.participant_id"], name=op.f("fk_device_participant_id")
        ),
        sa.ForeignKeyConstraint(["region_id"], ["registry.region.region_id"], name=op.f("fk_device_region_id")),
        sa.PrimaryKeyConstraint("device_id", name=op.f("pk_device")),
        schema="registry",
    )
    op.create_table(
        "vpp",
        sa.Column("vpp_id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("region_id", sa.Text(), nullable=False),
        sa.Column("participant_id", sa.Text(), nullable=True),
        sa.Column("capacity_kw", sa.Float(), nullable=False),
        sa.Column("location", postgresql.JSONB(astext_type=sa.Text()), nullable=True, comment="{lat, lng}"),
        sa.ForeignKeyConstraint(
            ["participant_id"], ["registry.participant.participant_id"], name=op.f("fk_vpp_participant_id")
        ),
        sa.ForeignKeyConstraint(["region_id"], ["registry.region.region_id"], name=op.f("fk_vpp_region_id")),
        sa.PrimaryKeyConstraint("vpp_id", name=op.f("pk_vpp")),
        schema="registry",
    )
    op.create_table(
        "series",
        sa.Column("series_id", sa.Integer(), sa.Identity(always=False), nullable=False),
        sa.Column("device_id", sa.Text(), nullable=False),
        sa.Column(
            "metric", sa.Text(), nullable=False, comment="The fifth topic level: consumption, generation, output, soc …"
        ),
        sa.Column("unit", sa.Text(), nullable=False, comment="kWh, kW, °C, m/s, 1 …; readings are converted to it"),
        sa.Column(
            "kind", sa.Text(), nullable=False, comment="energy (per interval), power (mean), state (at the start)"
        ),
        sa.Column(
            "role", sa.Text(), nullable=True, comment="What the pipeline uses it as: load, pv, wind, temperature, soc …"
        ),
        sa.CheckConstraint("kind in ('energy', 'power', 'state')", name=op.f("ck_series_kind")),
        sa.ForeignKeyConstraint(["device_id"], ["registry.device.device_id"], name=op.f("fk_series_device_id")),
        sa.PrimaryKeyConstraint("series_id", name=op.f("pk_series")),
        sa.UniqueConstraint("device_id", "metric", name=op.f("uq_series_device_id_metric")),
        schema="registry",
    )
    op.create_table(
        "vpp_resource",
        sa.Column("vpp_id", sa.Text(), nullable=False),
        sa.Column("resource_id", sa.Text(), nullable=False),
        sa.Column("type", sa.Text(), nullable=False, comment="solar, wind, hydro, storage, chp, grid or load"),
        sa.Column("capacity_kw", sa.Float(), nullable=False),
        sa.Column("device_id", sa.Text(), nullable=True, comment="Measures and obeys"),
        sa.Column(
            "parameters",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default="{}",
            nullable=False,
            comment="As in the dispatch problem, camelCase",
        ),
        sa.Column("location", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.ForeignKeyConstraint(["device_id"], ["registry.device.device_id"], name=op.f("fk_vpp_resource_device_id")),
        sa.ForeignKeyConstraint(["vpp_id"], ["registry.vpp.vpp_id"], name=op.f("fk_vpp_resource_vpp_id")),
        sa.PrimaryKeyConstraint("vpp_id", "resource_id", name=op.f("pk_vpp_resource")),
        schema="registry",
    )
    op.execute(ENSURE_READING_DAY)


def downgrade() -> None:
    op.execute("drop function raw.ensure_reading_day(date)")
    op.drop_table("price", schema="market")
    op.drop_table("vpp_resource", schema="registry")
    op.drop_table("series", schema="registry")
    op.drop_table("vpp", schema="registry")
    op.drop_table("device", schema="registry")
    op.drop_table("account", schema="registry")
    op.drop_table("participant", schema="registry")
    op.drop_index("ix_settlement_trade_trade_id", table_name="trade", schema="settlement")
    op.drop_table("trade", schema="settlement")
    op.drop_table("position", schema="settlement")
    op.drop_table("region", schema="registry")
    op.drop_table("evidence", schema="audit")
    op.drop_index("ix_validated_reading_ts", table_name="reading", schema="validated")
    op.drop_table("reading", schema="validated")
    op.drop_index("ix_quarantine_ts", table_name="quarantine", schema="validated")
    op.drop_table("quarantine", schema="validated")
    op.drop_table("hour", schema="validated")
    op.drop_table("batch", schema="settlement")
    op.drop_table("market", schema="registry")
    op.drop_index("ix_rejected_received_at", table_name="rejected", schema="raw")
    op.drop_table("rejected", schema="raw")
    op.drop_index("ix_reading_ts", table_name="reading", schema="raw")
    op.drop_table("reading", schema="raw")
    op.drop_index("ix_trade_delivery_start", table_name="trade", schema="market")
    op.drop_table("trade", schema="market")
    op.drop_index("ix_order_delivery_start", table_name="order", schema="market")
    op.drop_table("order", schema="market")
    op.drop_table("clearing", schema="market")
    op.drop_index("ix_point_issued_at", table_name="point", schema="forecast")
    op.drop_table("point", schema="forecast")
    op.drop_table("model", schema="forecast")
    op.drop_table("setpoint", schema="dispatch")
    op.drop_table("plan", schema="dispatch")
    op.drop_table("step", schema="audit")
    for schema in reversed(SCHEMAS):
        op.execute(f"drop schema {schema}")
