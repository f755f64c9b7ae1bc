"""Log lines of the commands: on standard error, so that what a command reports stays alone on standard output."""

from __future__ import annotations

from typing import TYPE_CHECKING

from energy_cloud_dagster.adapters.logs import configure_logging

if TYPE_CHECKING:
    from energy_cloud_dagster.settings import Settings


def before_settings() -> None:
    """Log warnings only, as text, until the settings are known."""
    configure_logging("console", "warning")


def configure(settings: Settings, *, quiet: bool = False) -> None:
    """Log as ``settings`` say; ``quiet`` logs warnings only where they do not name a level.

    Quiet is for commands that themselves say what goes on.
    """
    named = "log_level" in settings.model_fields_set
    configure_logging(settings.log_format, "warning" if quiet and not named else settings.log_level)
