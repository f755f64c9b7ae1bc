"""The tables that Alembic owns. Repositories build their statements from these; a test compares them with migrations.

Times are ``timestamptz`` in UTC; ``*_kwh``, ``*_kw`` are floats of measured or planned quantities; ``*_wh`` and
``*_micro`` are integers (settled energy, and money in 10⁻⁶ of the market's currency).
"""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, BYTEA, JSONB

SCHEMAS = ("registry", "raw", "validated", "forecast", "dispatch", "market", "settlement", "audit")

metadata = sa.MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

Stamp = sa.TIMESTAMP(timezone=True)


def _stamp(name: str, comment: str, *, null: bool = False, key: bool = False) -> sa.Column[object]:
    return sa.Column(name, Stamp, nullable=null, primary_key=key, comment=comment)


# -- registry

market_registry = sa.Table(
    "market",
    metadata,
    sa.Column("market_id", sa.Text, primary_key=True, comment="Such as KRW-KWH"),
    sa.Column("currency", sa.Text, nullable=False, comment="ISO 4217"),
    schema="registry",
)
region = sa.Table(
    "region",
    metadata,
    sa.Column("region_id", sa.Text, primary_key=True),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("timezone", sa.Text, nullable=False, comment="IANA name; used at the edges only"),
    sa.Column("market_id", sa.Text, sa.ForeignKey(market_registry.c.market_id), nullable=False),
    sa.Column("grid_id", sa.Text, nullable=False),
    sa.Column("aliases", ARRAY(sa.Text), nullable=False, server_default="{}"),
    _stamp("operating_since", "First hour that schedules work on; null: none", null=True),
    schema="registry",
)
participant = sa.Table(
    "participant",
    metadata,
    sa.Column("participant_id", sa.Text, primary_key=True),
    sa.Column("region_id", sa.Text, sa.ForeignKey(region.c.region_id), nullable=False),
    sa.Column("kind", sa.Text, nullable=False, comment="prosumer, vpp or grid"),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("account", sa.Text, nullable=False, comment="Account on the chain, a checksummed address"),
    sa.Column("salt", BYTEA, nullable=True, comment="Salts this subject's digests; erasing it unlinks them"),
    sa.CheckConstraint("kind in ('prosumer', 'vpp', 'grid')", name="kind"),
    schema="registry",
)
device = sa.Table(
    "device",
    metadata,
    sa.Column("device_id", sa.Text, primary_key=True),
    sa.Column("region_id", sa.Text, sa.ForeignKey(region.c.region_id), nullable=False),
    sa.Column(
        "device_type", sa.Text, nullable=False, comment="The third topic level: smart-meter, inverter, battery …"
    ),
    sa.Column("customer_class", sa.Text, nullable=True, comment="residential, commercial or industrial"),
    sa.Column("participant_id", sa.Text, sa.ForeignKey(participant.c.participant_id), nullable=True),
    sa.Column("interval_minutes", sa.Integer, nullable=False, server_default="15", comment="Length of its intervals"),
    sa.Column("verified", sa.Boolean, nullable=False, server_default=sa.true()),
    _stamp("created_at", "When it was registered"),
    sa.Column("metadata", JSONB, nullable=True, comment="What it last said of itself: type, firmware …"),
    sa.Column(
        "simulated",
        sa.Boolean,
        nullable=False,
        server_default=sa.false(),
        comment="Made for a resource without a device; the simulated fleet plays it",
    ),
    sa.CheckConstraint("customer_class in ('residential', 'commercial', 'industrial')", name="customer_class"),
    schema="registry",
)
series = sa.Table(
    "series",
    metadata,
    sa.Column("series_id", sa.Integer, sa.Identity(), primary_key=True),
    sa.Column("device_id", sa.Text, sa.ForeignKey(device.c.device_id), nullable=False),
    sa.Column(
        "metric", sa.Text, nullable=False, comment="The fifth topic level: consumption, generation, output, soc …"
    ),
    sa.Column("unit", sa.Text, nullable=False, comment="kWh, kW, °C, m/s, 1 …; readings are converted to it"),
    sa.Column("kind", sa.Text, nullable=False, comment="energy (per interval), power (mean), state (at the start)"),
    sa.Column(
        "role", sa.Text, nullable=True, comment="What the pipeline uses it as: load, pv, wind, temperature, soc …"
    ),
    sa.UniqueConstraint("device_id", "metric"),
    sa.CheckConstraint("kind in ('energy', 'power', 'state')", name="kind"),
    schema="registry",
)
vpp = sa.Table(
    "vpp",
    metadata,
    sa.Column("vpp_id", sa.Text, primary_key=True),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("region_id", sa.Text, sa.ForeignKey(region.c.region_id), nullable=False),
    sa.Column("participant_id", sa.Text, sa.ForeignKey(participant.c.participant_id), nullable=True),
    sa.Column("capacity_kw", sa.Float, nullable=False),
    sa.Column("location", JSONB, nullable=True, comment="{lat, lng}"),
    _stamp("deleted_at", "When it was taken out of service; null: it stands", null=True),
    schema="registry",
)
# Positions are settled by participant, so that one VPP at a time trades for each.
sa.Index("uq_vpp_participant_id", vpp.c.participant_id, unique=True, postgresql_where=vpp.c.deleted_at.is_(None))
vpp_resource = sa.Table(
    "vpp_resource",
    metadata,
    sa.Column("vpp_id", sa.Text, sa.ForeignKey(vpp.c.vpp_id), primary_key=True),
    sa.Column("resource_id", sa.Text, primary_key=True),
    sa.Column("type", sa.Text, nullable=False, comment="solar, wind, hydro, storage, chp, grid or load"),
    sa.Column("capacity_kw", sa.Float, nullable=False),
    sa.Column("device_id", sa.Text, sa.ForeignKey(device.c.device_id), nullable=True, comment="Measures and obeys"),
    sa.Column(
        "parameters", JSONB, nullable=False, server_default="{}", comment="As in the dispatch problem, camelCase"
    ),
    sa.Column("location", JSONB, nullable=True),
    schema="registry",
)
account = sa.Table(
    "account",
    metadata,
    sa.Column("username", sa.Text, primary_key=True),
    sa.Column("password_hash", sa.Text, nullable=False, comment="argon2id"),
    sa.Column("role", sa.Text, nullable=False),
    sa.Column("participant_id", sa.Text, sa.ForeignKey(participant.c.participant_id), nullable=True),
    sa.Column("disabled", sa.Boolean, nullable=False, server_default=sa.false()),
    _stamp("created_at", "When it was made"),
    sa.CheckConstraint("role in ('admin', 'operator', 'trader', 'auditor', 'device', 'viewer')", name="role"),
    schema="registry",
)
credential = sa.Table(
    "credential",
    metadata,
    sa.Column("credential_id", sa.Text, primary_key=True, comment="Public part of a device token"),
    sa.Column("device_id", sa.Text, sa.ForeignKey(device.c.device_id), nullable=False),
    sa.Column("token_hash", sa.Text, nullable=False, comment="PBKDF2-SHA512 as mosquitto's password file has it"),
    sa.Column(
        "config_key", sa.Text, nullable=True, comment="Signs the device's configuration: derived from the token, hex"
    ),
    _stamp("created_at", "When it was issued"),
    _stamp("expires_at", "End of the grace after a rotation; null: none", null=True),
    _stamp("revoked_at", "When it was revoked; null: never", null=True),
    schema="registry",
    comment="Tokens of devices; more than one is valid while one is being rotated",
)
sa.Index("ix_credential_device_id", credential.c.device_id)

# -- raw: what arrived, immutable

reading = sa.Table(
    "reading",
    metadata,
    sa.Column("series_id", sa.Integer, primary_key=True, autoincrement=False, comment="registry.series"),
    _stamp("ts", "Start of the interval", key=True),
    sa.Column("revision", sa.SmallInteger, primary_key=True, autoincrement=False, comment="1, 2 … in order of receipt"),
    sa.Column("value", sa.Double, nullable=False, comment="In the unit of its series"),
    sa.Column("quality", sa.Text, nullable=False, comment="high, medium, low or bad, as the device said"),
    _stamp("received_at", "When the platform knew"),
    sa.Column("source", sa.Text, nullable=False, comment="mqtt, rest, opcua or history"),
    schema="raw",
    comment="Immutable, partitioned by day of ts; a correction is a new revision",
    postgresql_partition_by="RANGE (ts)",
)
sa.Index("ix_reading_ts", reading.c.ts)
# Streams ask for what arrived last; rows lie in order of receipt, so a few pages of ranges find them.
sa.Index(
    "ix_reading_received_at",
    reading.c.received_at,
    postgresql_using="brin",
    postgresql_with={"pages_per_range": 16, "autosummarize": True},
)
rejected = sa.Table(
    "rejected",
    metadata,
    sa.Column("rejected_id", sa.BigInteger, sa.Identity(), primary_key=True),
    _stamp("received_at", "When it arrived"),
    sa.Column("source", sa.Text, nullable=False, comment="mqtt, rest, opcua or history"),
    sa.Column("topic", sa.Text, nullable=False, comment="Topic, path or node id"),
    sa.Column("payload", BYTEA, nullable=False, comment="The bytes as they came, cut to the largest accepted size"),
    sa.Column("reason", sa.Text, nullable=False, comment="snake_case code"),
    sa.Column("detail", sa.Text, nullable=False, comment="What was wrong and what to fix"),
    schema="raw",
    comment="Every message that could not be stored, with its reason",
)
sa.Index("ix_rejected_received_at", rejected.c.received_at)
request = sa.Table(
    "request",
    metadata,
    sa.Column("caller", sa.Text, primary_key=True, comment="Account or device that wrote"),
    sa.Column("idempotency_key", sa.Text, primary_key=True),
    sa.Column("digest", sa.Text, nullable=False, comment="SHA-256 of method, path and body"),
    sa.Column("status", sa.SmallInteger, nullable=False),
    sa.Column("answer", BYTEA, nullable=False, comment="The body that was answered"),
    _stamp("created_at", "When it was answered"),
    schema="raw",
    comment="Answered writes by Idempotency-Key, committed with what they wrote",
)
sa.Index("ix_request_created_at", request.c.created_at)
archived_day = sa.Table(
    "archived_day",
    metadata,
    sa.Column("day", sa.Date, primary_key=True, comment="UTC day of ts"),
    sa.Column("uri", sa.Text, nullable=False, comment="Where the Parquet file lies"),
    sa.Column("revision", sa.Integer, nullable=False, comment="1, 2 … each time the day was archived anew"),
    sa.Column("rows", sa.BigInteger, nullable=False),
    sa.Column("bytes", sa.BigInteger, nullable=False, comment="Of the file"),
    sa.Column("sha256", sa.Text, nullable=False, comment="Of the file"),
    sa.Column("digest", sa.Text, nullable=False, comment="Of the rows, equal in the file and in the database"),
    _stamp("archived_at", "When it was written and read back"),
    _stamp("dropped_at", "When retention removed the day from the database; null: it is there", null=True),
    _stamp("keep_until", "A restored day stays until then; null: retention decides", null=True),
    schema="raw",
    comment="Days of readings that lie in the archive",
)

# -- validated

valid_reading = sa.Table(
    "reading",
    metadata,
    sa.Column("series_id", sa.Integer, primary_key=True, autoincrement=False),
    _stamp("ts", "Start of the interval", key=True),
    sa.Column("revision", sa.SmallInteger, primary_key=True, autoincrement=False),
    sa.Column("value", sa.Double, nullable=False),
    sa.Column("quality", sa.Text, nullable=False),
    _stamp("received_at", "When the platform knew"),
    schema="validated",
    comment="Every revision that passed the row rules",
)
sa.Index("ix_validated_reading_ts", valid_reading.c.ts)
quarantine = sa.Table(
    "quarantine",
    metadata,
    sa.Column("quarantine_id", sa.BigInteger, sa.Identity(), primary_key=True),
    sa.Column("series_id", sa.Integer, nullable=False),
    _stamp("ts", "Start of the interval"),
    sa.Column("revision", sa.SmallInteger, nullable=False),
    sa.Column("value", sa.Double, nullable=False),
    sa.Column("quality", sa.Text, nullable=False),
    _stamp("received_at", "When the platform knew"),
    sa.Column("rule", sa.Text, nullable=False, comment="Name of the rule that it failed"),
    sa.Column("detail", sa.Text, nullable=False),
    sa.Column("state", sa.Text, nullable=False, server_default="held", comment="held, released or confirmed"),
    sa.UniqueConstraint("series_id", "ts", "revision", "rule"),
    sa.CheckConstraint("state in ('held', 'released', 'confirmed')", name="state"),
    schema="validated",
    comment="Every reading that failed a rule, until someone decides",
)
sa.Index("ix_quarantine_ts", quarantine.c.ts)
checked_hour = sa.Table(
    "hour",
    metadata,
    sa.Column("region_id", sa.Text, primary_key=True),
    _stamp("hour", "Start of the hour", key=True),
    sa.Column("rows_read", sa.Integer, nullable=False),
    sa.Column("rows_valid", sa.Integer, nullable=False),
    sa.Column("rows_quarantined", sa.Integer, nullable=False),
    sa.Column("expected", sa.Integer, nullable=False, comment="Readings that the registry expects"),
    sa.Column("complete", sa.Boolean, nullable=False, comment="Whether settlement may use it"),
    sa.Column("missing", JSONB, nullable=False, server_default="[]", comment="[device/metric] without a valid reading"),
    _stamp("known_at", "Latest receipt among the readings it saw", null=True),
    sa.Column("digest", sa.Text, nullable=False),
    schema="validated",
    comment="What the validation of one hour found",
)

# -- forecast

model = sa.Table(
    "model",
    metadata,
    sa.Column("series_key", sa.Text, primary_key=True, comment="Such as region/seoul/load"),
    sa.Column("model", sa.Text, primary_key=True, comment="prophet …"),
    _stamp("fitted_at", "As-of time of the fit", key=True),
    _stamp("train_start", "First hour it saw"),
    _stamp("train_end", "End of the last hour it saw"),
    sa.Column("artifact", sa.Text, nullable=False, comment="The serialised model"),
    sa.Column("digest", sa.Text, nullable=False),
    sa.Column("metrics", JSONB, nullable=False, server_default="{}", comment="Accuracy on its last held-out days"),
    schema="forecast",
)
forecast_point = sa.Table(
    "point",
    metadata,
    sa.Column(
        "series_key",
        sa.Text,
        primary_key=True,
        comment="region/{id}/load, site/{id}/load, resource/{vpp}/{id}/availability",
    ),
    _stamp("issued_at", "The now of the forecast", key=True),
    sa.Column("model", sa.Text, primary_key=True, comment="prophet, seasonal_naive, similar_day …"),
    _stamp("ts", "Start of the hour that is forecast", key=True),
    sa.Column("p10", sa.Double, nullable=False, comment="kWh, or a fraction for availability"),
    sa.Column("p50", sa.Double, nullable=False),
    sa.Column("p90", sa.Double, nullable=False),
    sa.Column("chosen", sa.Boolean, nullable=False, comment="Whether the next stage uses this model"),
    sa.Column("rung", sa.Text, nullable=False, comment="champion, similar_day or persistence"),
    schema="forecast",
)
sa.Index("ix_point_issued_at", forecast_point.c.issued_at)
selection = sa.Table(
    "selection",
    metadata,
    sa.Column("series_key", sa.Text, primary_key=True, comment="Such as region/seoul/load"),
    _stamp("decided_at", "As-of time: the models were fitted then, too", key=True),
    sa.Column("champion", sa.Text, nullable=False, comment="The model that the next stage uses"),
    sa.Column(
        "document",
        JSONB,
        nullable=False,
        comment="Scores in the backtest, weights of the ensemble, calibrations, notes",
    ),
    schema="forecast",
    comment="Which model proved best on the series' own last days",
)
forecast_accuracy = sa.Table(
    "accuracy",
    metadata,
    sa.Column("series_key", sa.Text, primary_key=True, comment="Such as region/seoul/load"),
    sa.Column("day", sa.Date, primary_key=True, comment="Local day of the region"),
    sa.Column(
        "lead",
        sa.Text,
        primary_key=True,
        comment="day_ahead: as issued at the day's midnight; gate: as known when the market of each hour closed",
    ),
    sa.Column("model", sa.Text, primary_key=True, comment="A model, or published: whatever was chosen hour by hour"),
    sa.Column("hours", sa.Integer, nullable=False, comment="Hours that were compared"),
    sa.Column("mape", sa.Double, nullable=True, comment="Percent"),
    sa.Column("mae", sa.Double, nullable=True, comment="kWh per hour"),
    sa.Column("rmse", sa.Double, nullable=True, comment="kWh per hour"),
    sa.Column("mase", sa.Double, nullable=True, comment="mae by the mean weekly change before the day"),
    sa.Column("bias", sa.Double, nullable=True, comment="kWh per hour; positive forecast too much"),
    sa.Column("pinball", sa.Double, nullable=True, comment="Mean of the three quantiles' losses, kWh"),
    sa.Column("coverage", sa.Double, nullable=True, comment="Share of hours between P10 and P90"),
    sa.Column("rungs", JSONB, nullable=False, comment="Hours by model and step of the ladder that answered"),
    _stamp("scored_at", "As-of time of the comparison"),
    sa.CheckConstraint("lead in ('day_ahead', 'gate')", name="lead"),
    schema="forecast",
    comment="Published forecasts against what was measured, by day",
)
weather = sa.Table(
    "weather",
    metadata,
    sa.Column("location", sa.Text, primary_key=True, comment="lat,lng in degrees with two decimals"),
    sa.Column(
        "variable",
        sa.Text,
        primary_key=True,
        comment="temperature, humidity, irradiance, wind_speed, wind_direction or air_density",
    ),
    _stamp("ts", "Start of the hour that it is the mean of", key=True),
    _stamp("issued_at", "When the platform knew", key=True),
    sa.Column("value", sa.Double, nullable=False),
    sa.Column("source", sa.Text, nullable=False, comment="Such as open-meteo"),
    schema="forecast",
    comment="Weather forecasts as they were known; a row stands until a later one of its hour differs",
)

# -- dispatch

plan = sa.Table(
    "plan",
    metadata,
    sa.Column("vpp_id", sa.Text, primary_key=True),
    _stamp("issued_at", "The now of the plan", key=True),
    _stamp("plan_start", "Start of its first step"),
    sa.Column("solver", sa.Text, nullable=False),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("cost", sa.Double, nullable=False, comment="Whole horizon, in the market's currency"),
    sa.Column("unmet_kwh", sa.Double, nullable=False),
    sa.Column("renewable_ratio", sa.Double, nullable=True),
    sa.Column("problem", JSONB, nullable=False, comment="The dispatch problem, as PLAN.json"),
    sa.Column("solution", JSONB, nullable=False, comment="The answer, as INTERFACES describes it, without solve time"),
    sa.Column("digest", sa.Text, nullable=False),
    sa.Column(
        "materialized_at",
        Stamp,
        nullable=True,
        server_default=sa.func.now(),
        comment="When it was computed; null: not known. Not part of the digest",
    ),
    sa.Column("run_id", sa.Text, nullable=True, comment="Dagster run that last wrote it; not part of the digest"),
    schema="dispatch",
)
optimization = sa.Table(
    "optimization",
    metadata,
    sa.Column("optimization_id", sa.Text, primary_key=True),
    sa.Column("vpp_id", sa.Text, sa.ForeignKey(vpp.c.vpp_id), nullable=False),
    sa.Column("requested_by", sa.Text, nullable=False, comment="Account"),
    _stamp("created_at", "When it was solved"),
    sa.Column("problem", JSONB, nullable=False, comment="The dispatch problem, as PLAN.json"),
    sa.Column("answer", JSONB, nullable=False, comment="What was answered, without id and solve time"),
    sa.Column("digest", sa.Text, nullable=False, comment="Over problem and answer"),
    schema="dispatch",
    comment="Plans that were asked for over the API",
)
sa.Index("ix_optimization_vpp_id", optimization.c.vpp_id, optimization.c.created_at)
setpoint = sa.Table(
    "setpoint",
    metadata,
    sa.Column("vpp_id", sa.Text, primary_key=True),
    _stamp("issued_at", "The now of the plan", key=True),
    sa.Column("resource_id", sa.Text, primary_key=True),
    _stamp("ts", "Start of the step", key=True),
    sa.Column("type", sa.Text, nullable=False),
    sa.Column("output_kw", sa.Double, nullable=False, comment="Storage: discharge - charge; grid: import - export"),
    sa.Column("available_kw", sa.Double, nullable=True),
    sa.Column("soc", sa.Double, nullable=True, comment="State of charge at the end of the step, fraction"),
    sa.Column("marginal_price", sa.Double, nullable=False, comment="Dual of the balance, per kWh"),
    schema="dispatch",
)
actual = sa.Table(
    "actual",
    metadata,
    sa.Column("vpp_id", sa.Text, primary_key=True),
    _stamp("ts", "Start of the hour", key=True),
    sa.Column("resource_id", sa.Text, primary_key=True),
    sa.Column("type", sa.Text, nullable=False),
    _stamp("issued_at", "The now of the newest plan of the hour"),
    sa.Column("planned_kw", sa.Double, nullable=False, comment="Storage: discharge - charge; grid: import - export"),
    sa.Column("actual_kw", sa.Double, nullable=True, comment="Mean power of the hour; null: not known"),
    sa.Column("source", sa.Text, nullable=False, comment="measured, balance (of the region's meters) or none"),
    sa.Column("planned_soc", sa.Double, nullable=True, comment="At the end of the hour, fraction"),
    sa.Column("actual_soc", sa.Double, nullable=True, comment="As last measured within the hour, fraction"),
    sa.Column("planned_cost", sa.Double, nullable=False, comment="In the market's currency; exports earn"),
    sa.Column("actual_cost", sa.Double, nullable=True, comment="Actual energy at the plan's costs"),
    _stamp("compared_at", "As-of time of the comparison"),
    sa.CheckConstraint("source in ('measured', 'balance', 'none')", name="source"),
    schema="dispatch",
    comment="Planned against actual power of every resource of a VPP, by hour",
)
command = sa.Table(
    "command",
    metadata,
    sa.Column("command_id", sa.Text, primary_key=True),
    sa.Column("device_id", sa.Text, sa.ForeignKey(device.c.device_id), nullable=False),
    sa.Column("kind", sa.Text, nullable=False, comment="command or config, which is also the topic's last level"),
    sa.Column("topic", sa.Text, nullable=False),
    sa.Column("payload", JSONB, nullable=False, comment="The document that is published; a config is signed then"),
    sa.Column("version", sa.Integer, nullable=True, comment="Of a config: 1, 2 … by device"),
    sa.Column("state", sa.Text, nullable=False, comment="queued, sent, accepted, done, rejected or expired"),
    sa.Column("reason", sa.Text, nullable=True, comment="Why it was rejected or expired"),
    sa.Column("requested_by", sa.Text, nullable=False),
    _stamp("created_at", "When it was asked for"),
    _stamp("valid_until", "It expires unless it is done by then"),
    sa.Column("attempts", sa.Integer, nullable=False, server_default="0", comment="How often it was published"),
    _stamp("next_attempt_at", "When it is published (again); null: never", null=True),
    _stamp("updated_at", "Of its last transition"),
    sa.CheckConstraint("kind in ('command', 'config')", name="kind"),
    sa.CheckConstraint("state in ('queued', 'sent', 'accepted', 'done', 'rejected', 'expired')", name="state"),
    schema="dispatch",
    comment="Outbox of what the cloud asks of devices",
)
sa.Index("ix_command_device_id", command.c.device_id, command.c.created_at)
sa.Index(
    "ix_command_open", command.c.next_attempt_at, postgresql_where=command.c.state.in_(("queued", "sent", "accepted"))
)
allocation = sa.Table(
    "allocation",
    metadata,
    sa.Column("allocation_id", sa.Text, primary_key=True),
    sa.Column("vpp_id", sa.Text, sa.ForeignKey(vpp.c.vpp_id), nullable=False),
    sa.Column("optimization_id", sa.Text, nullable=True, comment="Whose answer it is; null: given as such"),
    sa.Column("state", sa.Text, nullable=False, comment="waiting (for an approval) or applied"),
    sa.Column("total_kw", sa.Double, nullable=False, comment="Largest sum of absolute setpoints in one step"),
    _stamp("starts_at", "Start of its first step"),
    sa.Column("step_minutes", sa.Integer, nullable=False),
    sa.Column("steps", sa.Integer, nullable=False),
    sa.Column("requested_by", sa.Text, nullable=False),
    _stamp("created_at", "When it was asked for"),
    sa.Column("approved_by", sa.Text, nullable=True, comment="Null: it needed no approval, or waits for one"),
    _stamp("applied_at", "When its first commands were queued", null=True),
    sa.CheckConstraint("state in ('waiting', 'applied')", name="state"),
    schema="dispatch",
    comment="Setpoints that somebody asked a VPP to hold",
)
sa.Index("ix_allocation_vpp_id", allocation.c.vpp_id, allocation.c.created_at)
allocation_item = sa.Table(
    "allocation_item",
    metadata,
    sa.Column("allocation_id", sa.Text, sa.ForeignKey(allocation.c.allocation_id), primary_key=True),
    sa.Column("resource_id", sa.Text, primary_key=True),
    sa.Column("vpp_id", sa.Text, nullable=False),
    sa.Column("type", sa.Text, nullable=False, comment="Of the resource"),
    sa.Column(
        "device_id",
        sa.Text,
        sa.ForeignKey(device.c.device_id),
        nullable=True,
        comment="That obeys; null: nothing can be commanded",
    ),
    sa.Column("outputs", ARRAY(sa.Double), nullable=False, comment="kW in each step, signed as in the problem"),
    sa.Column("step", sa.Integer, nullable=True, comment="The step that was commanded last; null: none yet"),
    sa.Column("command_id", sa.Text, sa.ForeignKey(command.c.command_id), nullable=True, comment="Its command"),
    _stamp("commanded_at", "When that was queued", null=True),
    sa.Column("safe_kw", sa.Double, nullable=True, comment="Setpoint of the fallback, where it fell back"),
    _stamp("fallback_at", "When its device was found silent; null: never", null=True),
    _stamp("ended_at", "When a newer allocation or its end came; null: it stands", null=True),
    schema="dispatch",
    comment="What an allocation asks of each resource, and how far that is",
)
sa.Index(
    "ix_allocation_item_standing",
    allocation_item.c.vpp_id,
    allocation_item.c.resource_id,
    postgresql_where=allocation_item.c.ended_at.is_(None),
)

# -- market

order = sa.Table(
    "order",
    metadata,
    sa.Column("order_id", sa.Text, primary_key=True),
    sa.Column("market_id", sa.Text, nullable=False),
    _stamp("delivery_start", "Hour of delivery"),
    sa.Column("participant_id", sa.Text, nullable=False),
    sa.Column("side", sa.Text, nullable=False, comment="buy or sell"),
    sa.Column("quantity_wh", sa.BigInteger, nullable=False),
    sa.Column("price_micro", sa.BigInteger, nullable=False, comment="Limit per kWh"),
    sa.Column("filled_wh", sa.BigInteger, nullable=False, comment="What the auction gave it"),
    _stamp("placed_at", "Time priority"),
    sa.CheckConstraint("side in ('buy', 'sell')", name="side"),
    schema="market",
)
sa.Index("ix_order_delivery_start", order.c.delivery_start)
clearing = sa.Table(
    "clearing",
    metadata,
    sa.Column("market_id", sa.Text, primary_key=True),
    _stamp("delivery_start", "Hour of delivery", key=True),
    _stamp("gate_closure", "When the book closed"),
    sa.Column("price_micro", sa.BigInteger, nullable=True, comment="Uniform price per kWh; null: nothing crossed"),
    sa.Column("volume_wh", sa.BigInteger, nullable=False),
    sa.Column("import_price_micro", sa.BigInteger, nullable=False, comment="Retail tariff of the hour per kWh"),
    sa.Column("export_price_micro", sa.BigInteger, nullable=False, comment="Feed-in price of the hour per kWh"),
    sa.Column("digest", sa.Text, nullable=False),
    schema="market",
)
trade = sa.Table(
    "trade",
    metadata,
    sa.Column("trade_id", sa.Text, primary_key=True),
    sa.Column("market_id", sa.Text, nullable=False),
    _stamp("delivery_start", "Hour of delivery"),
    sa.Column("buy_order_id", sa.Text, nullable=False),
    sa.Column("sell_order_id", sa.Text, nullable=False),
    sa.Column("buyer_id", sa.Text, nullable=False),
    sa.Column("seller_id", sa.Text, nullable=False),
    sa.Column("quantity_wh", sa.BigInteger, nullable=False),
    sa.Column("price_micro", sa.BigInteger, nullable=False, comment="Per kWh"),
    sa.Column("value_micro", sa.BigInteger, nullable=False),
    schema="market",
)
sa.Index("ix_trade_delivery_start", trade.c.delivery_start)
price = sa.Table(
    "price",
    metadata,
    sa.Column("market_id", sa.Text, primary_key=True),
    _stamp("hour", "Hour that the prices hold in", key=True),
    sa.Column("import_price_micro", sa.BigInteger, nullable=False, comment="Retail tariff per kWh"),
    sa.Column("export_price_micro", sa.BigInteger, nullable=False, comment="Feed-in price per kWh, 0 to the tariff"),
    _stamp("published_at", "When the platform knew"),
    schema="market",
    comment="What energy costs outside the market",
)

# -- settlement

batch = sa.Table(
    "batch",
    metadata,
    sa.Column("batch_id", sa.Text, primary_key=True, comment="0x + 64 hex digits, from (market, hour, revision)"),
    sa.Column("market_id", sa.Text, nullable=False),
    _stamp("delivery_start", "Hour of delivery"),
    sa.Column("revision", sa.Integer, nullable=False),
    _stamp("known_at", "It rests on the readings received up to here"),
    sa.Column("merkle_root", sa.Text, nullable=False, comment="0x + 64 hex digits"),
    sa.Column("trades", sa.Integer, nullable=False),
    sa.Column("digest", sa.Text, nullable=False, comment="Over positions and settled trades"),
    sa.Column("state", sa.Text, nullable=False, comment="intended, sent, confirmed or failed"),
    sa.Column("contract", sa.Text, nullable=False),
    sa.Column("chain_id", sa.BigInteger, nullable=False),
    sa.Column("tx_hash", sa.Text, nullable=True),
    sa.Column("block_number", sa.BigInteger, nullable=True),
    sa.Column("gas_used", sa.BigInteger, nullable=True),
    _stamp("confirmed_at", "Time of its block", null=True),
    sa.UniqueConstraint("market_id", "delivery_start", "revision"),
    sa.CheckConstraint("state in ('intended', 'sent', 'confirmed', 'failed')", name="state"),
    schema="settlement",
)
position = sa.Table(
    "position",
    metadata,
    sa.Column("batch_id", sa.Text, sa.ForeignKey(batch.c.batch_id), primary_key=True),
    sa.Column("participant_id", sa.Text, primary_key=True),
    sa.Column("account", sa.Text, nullable=False),
    sa.Column("traded_wh", sa.BigInteger, nullable=False, comment="Sold positive, bought negative"),
    sa.Column(
        "scheduled_wh", sa.BigInteger, nullable=False, comment="Net injection that the participant owes the grid"
    ),
    sa.Column("metered_wh", sa.BigInteger, nullable=False, comment="Measured net injection; consumption is negative"),
    sa.Column("deviation_wh", sa.BigInteger, nullable=False, comment="metered - scheduled"),
    sa.Column("trade_micro", sa.BigInteger, nullable=False, comment="Earned positive, owed negative"),
    sa.Column("imbalance_micro", sa.BigInteger, nullable=False),
    sa.Column("net_micro", sa.BigInteger, nullable=False),
    schema="settlement",
)
settled_trade = sa.Table(
    "trade",
    metadata,
    sa.Column("batch_id", sa.Text, sa.ForeignKey(batch.c.batch_id), primary_key=True),
    sa.Column("trade_id", sa.Text, primary_key=True),
    sa.Column("delivered_wh", sa.BigInteger, nullable=False, comment="Covered by the seller's own metered injection"),
    sa.Column("shortfall_wh", sa.BigInteger, nullable=False, comment="Bought from the grid on the seller's account"),
    sa.Column("value_micro", sa.BigInteger, nullable=False),
    schema="settlement",
)
sa.Index("ix_settlement_trade_trade_id", settled_trade.c.trade_id)

# -- audit

step = sa.Table(
    "step",
    metadata,
    sa.Column(
        "step", sa.Text, primary_key=True, comment="readings, validated, forecast, plan, orders, clearing, settlement"
    ),
    sa.Column("scope", sa.Text, primary_key=True, comment="Region, VPP, market or participant"),
    _stamp("hour", "The delivery hour that it speaks of", key=True),
    sa.Column("digest", sa.Text, nullable=False),
    sa.Column("rows", sa.Integer, nullable=False),
    sa.Column("run_id", sa.Text, nullable=False, comment="Dagster run that last wrote it; not part of any digest"),
    schema="audit",
    comment="The digest of each step's rows, by delivery hour",
)
evidence = sa.Table(
    "evidence",
    metadata,
    sa.Column("batch_id", sa.Text, sa.ForeignKey(batch.c.batch_id), primary_key=True),
    sa.Column("trade_id", sa.Text, primary_key=True),
    sa.Column("leaf_index", sa.Integer, nullable=False),
    sa.Column("document", JSONB, nullable=False, comment="The evidence document whose canonical form is the leaf"),
    sa.Column("leaf", sa.Text, nullable=False, comment="0x + 64 hex digits"),
    sa.Column("proof", JSONB, nullable=False, comment="Sibling hashes from the leaf up"),
    schema="audit",
)
command_event = sa.Table(
    "command_event",
    metadata,
    sa.Column("event_id", sa.BigInteger, sa.Identity(), primary_key=True),
    sa.Column("command_id", sa.Text, sa.ForeignKey(command.c.command_id), nullable=False),
    _stamp("at", "When it happened"),
    sa.Column("state", sa.Text, nullable=False, comment="The state that it entered"),
    sa.Column("actor", sa.Text, nullable=False, comment="Account, device or outbox"),
    sa.Column("detail", sa.Text, nullable=False, server_default=""),
    schema="audit",
    comment="Every transition of every command",
)
sa.Index("ix_command_event_command_id", command_event.c.command_id)
vpp_event = sa.Table(
    "vpp_event",
    metadata,
    sa.Column("event_id", sa.BigInteger, sa.Identity(), primary_key=True),
    sa.Column("vpp_id", sa.Text, sa.ForeignKey(vpp.c.vpp_id), nullable=False),
    _stamp("at", "When it happened"),
    sa.Column("actor", sa.Text, nullable=False, comment="Account"),
    sa.Column(
        "action", sa.Text, nullable=False, comment="created, changed, deleted, resource_added or resource_removed"
    ),
    sa.Column("resource_id", sa.Text, nullable=True),
    sa.Column("document", JSONB, nullable=False, comment="The VPP or resource as it was from then on, or last"),
    schema="audit",
    comment="Every change of a VPP and its resources",
)
sa.Index("ix_vpp_event_vpp_id", vpp_event.c.vpp_id)
