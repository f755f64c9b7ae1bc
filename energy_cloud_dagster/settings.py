"""Every setting of the platform: ``ENERGY_CLOUD_*`` variables (and an optional ``.env``), refused when wrong.

Entry points build ``Settings`` once and hand it down; nothing below them reads the environment.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from energy_cloud_dagster.domain.errors import Misconfigured

ENV_PREFIX = "ENERGY_CLOUD_"
#: Models that can be named; a test compares them with the registry, which is too heavy to import here.
FORECAST_MODELS = ("seasonal_naive", "daily_naive", "similar_day", "prophet", "gradient_boosting", "lstm")


class Settings(BaseSettings):
    """The settings of one process. A URL left empty means: use the embedded part under ``home``."""

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, env_file=".env", extra="ignore", frozen=True)

    home: Path = Field(Path(".energy-cloud"), description="Folder that holds the state of the embedded parts.")
    port_base: int | None = Field(
        None, ge=1024, le=65000, description="Moves all default ports: API N, Dagster N+1, MQTT N+2, chain N+3."
    )
    bind_host: str = Field("127.0.0.1", description="Address that the API and the Dagster UI listen on.")
    api_port: int | None = Field(None, ge=1, le=65535, description="Port of the API (default 8000).")
    dagster_port: int | None = Field(None, ge=1, le=65535, description="Port of the Dagster UI (default 3000).")
    mqtt_port: int | None = Field(None, ge=1, le=65535, description="Port of the embedded MQTT broker (default 1883).")
    chain_port: int | None = Field(None, ge=1, le=65535, description="Port of the embedded chain (default 8545).")
    mqtts_port: int | None = Field(
        None, ge=1, le=65535, description="TLS port of the embedded MQTT broker, where it is mosquitto (default 8883)."
    )
    mqtt5_port: int | None = Field(
        None, ge=1, le=65535, description="MQTT 5 port of the embedded broker, where it is iotcore (default 1884)."
    )

    database_url: SecretStr = Field(
        SecretStr(""), description="postgresql://… of a real server; empty: the embedded PostgreSQL."
    )
    dagster_database_url: SecretStr = Field(
        SecretStr(""),
        description="Database of Dagster's own storage; empty: database `dagster` on the embedded server.",
    )
    mqtt_url: str = Field(
        "", description="mqtt://host:port or mqtts://host:port of a real broker; empty: the embedded broker."
    )
    mqtt_username: str = Field("", description="User name of this platform's own MQTT clients.")
    mqtt_password: SecretStr = Field(SecretStr(""), description="Password of this platform's own MQTT clients.")
    mqtt_ca: Path | None = Field(
        None, description="Certificate authority (PEM) of an mqtts:// broker; empty: those of the system."
    )
    mqtt_shared: bool = Field(
        True,
        description="Workers share the messages; false: each gets all (the embedded iotcore, whose shared "
        "subscriptions do not survive a worker's end).",
    )
    chain_rpc_url: str = Field("", description="JSON-RPC URL of a real EVM node; empty: the embedded chain.")
    chain_private_key: SecretStr = Field(
        SecretStr(""), description="Hex key of the settlement account; required with ENERGY_CLOUD_CHAIN_RPC_URL."
    )
    chain_contract: str = Field("", description="Address of a deployed EnergyExchange; empty: deployed at first use.")
    chain_confirmations: int = Field(0, ge=0, le=1000, description="Blocks that must follow a settlement's block.")

    tick_cron: str = Field("5 * * * *", description="Cron (UTC) at which complete hours are worked on.")
    catchup_hours: int = Field(6, ge=1, le=168, description="Missed hours that one run catches up, oldest first.")
    automation: Literal["running", "stopped"] = Field(
        "stopped", description="State in which schedules and sensors start; `energy-cloud up` sets running."
    )
    region: str = Field("seoul", description="Region whose hours the pipeline works on.")
    weather_url: str = Field(
        "", description="http(s)://… of a server of Open-Meteo's forecast API; empty: no weather is fetched."
    )
    weather_key: SecretStr = Field(SecretStr(""), description="API key of the weather server, where it wants one.")
    forecast_models: str = Field(
        "seasonal_naive,similar_day,prophet,gradient_boosting",
        description="Models that the daily fit judges, by comma; `daily_naive` and `lstm` (extra `lstm`) exist, too.",
    )
    forecast_drift: float = Field(
        1.5,
        ge=1,
        le=100,
        description="Refit when the MASE since the fit is above this multiple of what the fit's backtest had.",
    )
    unknown_devices: Literal["reject", "register"] = Field("reject", description="What MQTT ingest does with them.")
    ingest_workers: int = Field(1, ge=1, le=64, description="MQTT ingest workers that `energy-cloud up` starts.")
    token_grace_seconds: int = Field(
        300, ge=0, le=604_800, description="How long a rotated device token stays valid beside the new one (HTTP)."
    )
    command_retry_seconds: float = Field(
        10.0, gt=0, le=3600, description="Pause before a command that no device acknowledged is published again."
    )
    command_validity_seconds: int = Field(
        300, ge=1, le=604_800, description="How long a command without `validUntil` is valid."
    )
    simulate_resources: bool = Field(
        False,
        description="Give a resource that is added to a VPP without a device a simulated one; `up` and `demo` do.",
    )
    dispatch_seconds: float = Field(
        30.0, gt=0, le=3600, description="Longest search for a plan that was asked for over the API."
    )
    grid_price: float = Field(
        0.12, ge=0, description="Import price per kWh of a grid connection where the market has published none."
    )
    dispatch_risk: Literal["p50", "robust", "scenarios"] = Field(
        "scenarios", description="How the hourly plan takes the forecasts' bands into account."
    )
    dispatch_apply: bool = Field(False, description="Apply every new hourly plan: the outbox commands its devices.")
    dispatch_approval_kw: float | None = Field(
        None,
        ge=0,
        description="Largest sum of setpoints that operators apply alone; administrators approve more. Empty: any.",
    )
    watchdog_seconds: float = Field(
        60.0, gt=0, le=86_400, description="A device under an allocation that is silent for so long falls back."
    )
    partition_days_ahead: int = Field(7, ge=1, le=366, description="Day partitions that are made ahead.")
    retention_days: int | None = Field(
        None, ge=1, description="Days of readings kept in the database once they are archived; empty: all."
    )
    archive_url: str = Field(
        "", description="Folder or s3://bucket/prefix of the Parquet archive; empty: `archive` under `home`."
    )
    replay: bool = Field(
        False,
        description="Believe the simulated `receivedAt` of messages: for demos and replays only, never in production.",
    )
    future_tolerance_seconds: int = Field(
        300, ge=0, le=86400, description="How far ahead of its receipt a reading's timestamp may lie."
    )
    late_tolerance_days: int = Field(400, ge=1, le=36500, description="How far behind its receipt a timestamp may lie.")
    max_payload_bytes: int = Field(262_144, ge=256, description="Larger messages are rejected, kept cut to this size.")

    admin_password: SecretStr = Field(SecretStr(""), description="Password of the account `admin` at first start.")
    token_secret: SecretStr = Field(
        SecretStr(""),
        description="Signs bearer tokens (32 characters at least); empty: generated and kept under `home`.",
    )
    opcua_url: str = Field(
        "", description="opc.tcp://… of a SCADA server; empty: the simulated one of `up` and `demo`."
    )
    tag_map: Path | None = Field(
        None, description="Tag-map file of the SCADA bridge; empty: the one of the sample turbines."
    )
    log_format: Literal["console", "json"] = Field("console", description="How log lines look.")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least level that is logged.")

    @field_validator("token_secret")
    @classmethod
    def _long_enough(cls, secret: SecretStr) -> SecretStr:
        if 0 < len(secret.get_secret_value()) < 32:
            raise ValueError("has fewer than 32 characters")
        return secret

    @field_validator("forecast_models")
    @classmethod
    def _known_models(cls, names: str) -> str:
        listed = [name.strip() for name in names.split(",")]
        unknown = [name for name in listed if name not in FORECAST_MODELS]
        if unknown:
            raise ValueError(f"names {unknown[0] or 'nothing'!r}; models are {', '.join(FORECAST_MODELS)}")
        return ",".join(dict.fromkeys(listed))

    def port(self, part: Literal["api", "dagster", "mqtt", "chain", "mqtts", "mqtt5"]) -> int:
        """Return the port of ``part``: its own variable, else ``port_base`` plus its place, else the default."""
        own: int | None = getattr(self, f"{part}_port")
        if own is not None:
            return own
        place, default = {
            "api": (0, 8000),
            "dagster": (1, 3000),
            "mqtt": (2, 1883),
            "chain": (3, 8545),
            # 4 and 5 are the simulated plant and Dagster's code server
            "mqtts": (6, 8883),
            "mqtt5": (7, 1884),
        }[part]
        return default if self.port_base is None else self.port_base + place


def load_settings(**overrides: object) -> Settings:
    """Build the settings of this process; a wrong value raises ``Misconfigured`` naming its variable."""
    try:
        return Settings(**overrides)  # type: ignore[arg-type]
    except ValidationError as error:
        faults = [
            f"{ENV_PREFIX}{'_'.join(str(part) for part in fault['loc']).upper()}: {fault['msg']}"
            for fault in error.errors()
        ]
        raise Misconfigured("; ".join(faults)) from None
