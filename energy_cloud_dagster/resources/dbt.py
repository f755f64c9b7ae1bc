"""dbt in the run's own process: a warm build takes under a second where a subprocess takes five.

dagster-dbt starts a subprocess for every command, so its results are mapped to asset events here; the asset and check
specs still come from dagster-dbt's reading of the manifest.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import dagster as dg
import sqlalchemy as sa

from energy_cloud_dagster.settings import Settings, load_settings

_PACKAGE = Path(__file__).resolve().parents[1]


@dataclass(frozen=True, slots=True)
class NodeResult:
    """What became of one node of a build: ``status`` is success, pass, fail, warn, error or skipped."""

    unique_id: str
    status: str
    message: str
    failures: int
    seconds: float

    @property
    def ok(self) -> bool:
        """Whether it did what it should."""
        return self.status in {"success", "pass"}


def project_dir() -> Path:
    """Return the dbt project: beside the package in a checkout, inside it in an installed wheel."""
    beside = _PACKAGE.parent / "dbt"
    return beside if (beside / "dbt_project.yml").exists() else _PACKAGE / "_dbt"


def target_dir(settings: Settings) -> Path:
    """Return where dbt keeps its compiled state, under the platform's home."""
    return settings.home.resolve() / "dbt"


def manifest_path(settings: Settings) -> Path:
    """Return the manifest, parsed afresh where the project is newer than it."""
    manifest = target_dir(settings) / "manifest.json"
    sources = [path for path in project_dir().rglob("*") if path.suffix in {".sql", ".yml"} and path.is_file()]
    if not manifest.exists() or manifest.stat().st_mtime < max(path.stat().st_mtime for path in sources):
        with _environment(settings):
            _invoke(["parse", *_directories(settings)])
    return manifest


class Dbt(dg.ConfigurableResource):  # type: ignore[type-arg]
    """Builds the marts for a range of hours."""

    url: str = ""

    def prepare(self) -> None:
        """Import dbt and read the project, so that a build has only its own work to do."""
        _parsed(target_dir(self._settings()))

    def _settings(self) -> Settings:
        return load_settings(**({"database_url": self.url} if self.url else {}))

    def build(self, variables: dict[str, str], select: str = "") -> Iterator[NodeResult]:
        """Run ``dbt build`` and yield each node's result; a model that fails is a result, not an exception."""
        settings = self._settings()
        arguments = ["build", *_directories(settings), "--vars", json.dumps(variables)]
        if select:
            arguments += ["--select", select]
        with _environment(settings):
            outcome = _invoke(arguments, _parsed(target_dir(settings)))
        for result in outcome:
            yield NodeResult(
                unique_id=result.node.unique_id,
                status=str(result.status),
                message=str(result.message or ""),
                failures=int(result.failures or 0),
                seconds=float(result.execution_time or 0.0),
            )


def _directories(settings: Settings) -> list[str]:
    project = str(project_dir())
    folder = target_dir(settings)
    folder.mkdir(parents=True, exist_ok=True)
    return ["--project-dir", project, "--profiles-dir", project, "--target-path", str(folder)]


@lru_cache(maxsize=2)
def _parsed(folder: Path) -> Any:
    """Return dbt's manifest, read once a process: other variables would make dbt parse the whole project again.

    Nothing that the variables change is fixed by parsing: they stand in SQL, which is compiled when it is run.
    """
    del folder  # the key of the cache: each home has its own
    settings = load_settings()
    with _environment(settings):
        return _invoke(["parse", *_directories(settings)])


def _invoke(arguments: list[str], manifest: Any = None) -> Any:
    """Run one dbt command in this process and return its results."""
    from dbt.cli.main import dbtRunner

    quiet = ["--quiet", "--no-use-colors", "--log-level-file", "none", "--no-send-anonymous-usage-stats"]
    outcome = dbtRunner(manifest=manifest).invoke([*quiet, *arguments])
    if isinstance(outcome.exception, KeyboardInterrupt):
        raise outcome.exception  # dbt catches even that
    if outcome.exception is not None:
        raise dg.Failure(f"dbt {arguments[0]} did not run: {outcome.exception}") from outcome.exception
    return outcome.result


@contextmanager
def _environment(settings: Settings) -> Iterator[None]:
    """Hand the database to dbt's profile through the variables that it reads, and take them back afterwards."""
    given = {"ENERGY_CLOUD_DBT_DATABASE": "energy_cloud"}
    raw = settings.database_url.get_secret_value()
    if raw:
        url = sa.make_url(raw)
        query = {key: value if isinstance(value, str) else value[0] for key, value in url.query.items()}
        given = {
            "ENERGY_CLOUD_DBT_HOST": query.get("host") or url.host or "localhost",
            "ENERGY_CLOUD_DBT_PORT": str(query.get("port") or url.port or 5432),
            "ENERGY_CLOUD_DBT_USER": url.username or query.get("user", "postgres"),
            "ENERGY_CLOUD_DBT_PASSWORD": str(url.password or ""),
            "ENERGY_CLOUD_DBT_DATABASE": url.database or "energy_cloud",
        }
    before = {key: os.environ.get(key) for key in given}
    os.environ.update(given)
    try:
        yield
    finally:
        for key, value in before.items():
            if value is None:
                os.environ.pop(key, None)
            else:
                os.environ[key] = value
