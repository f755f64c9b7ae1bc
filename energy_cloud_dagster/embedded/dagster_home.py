"""Dagster's own home: one file that puts its runs, events and schedules into PostgreSQL."""

from __future__ import annotations

import json
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit


def write_dagster_home(home: Path, database_url: str) -> Path:
    """Write ``dagster.yaml`` under ``home`` for storage at ``database_url`` and return the folder (``DAGSTER_HOME``).

    Dagster speaks psycopg2 there: with SQLAlchemy 2.1 a bare ``postgresql://`` means psycopg 3, whose protocol refuses
    the bound parameter of Dagster's NOTIFY.
    """
    folder = home.absolute() / "dagster"
    folder.mkdir(parents=True, exist_ok=True)
    url = urlsplit(database_url)
    query = dict(parse_qsl(url.query))
    storage = {
        "username": unquote(url.username or "postgres"),
        "password": unquote(url.password or ""),
        "hostname": url.hostname or "",
        "port": int(query.pop("port", url.port or 5432)),
        "db_name": url.path.lstrip("/"),
        "params": query,
        "scheme": "postgresql+psycopg2",
    }
    # JSON is YAML, and quotes what needs quoting
    config = {
        "storage": {"postgres": {"postgres_db": storage}},
        "telemetry": {"enabled": False},
        "nux": {"enabled": False},
        "run_monitoring": {"enabled": True, "start_timeout_seconds": 180, "max_resume_run_attempts": 0},
        "concurrency": {
            "runs": {
                "max_concurrent_runs": 2,
                # two settlements at once would sign with the same nonce
                "tag_concurrency_limits": [{"key": "energy-cloud/one-at-a-time", "limit": 1}],
            }
        },
    }
    path = folder / "dagster.yaml"
    path.touch(mode=0o600)
    path.chmod(0o600)
    path.write_text(json.dumps(config, indent=2) + "\n")
    return folder
