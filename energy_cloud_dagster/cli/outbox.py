"""`energy-cloud outbox`: the process that sends commands to devices."""

from __future__ import annotations


def outbox() -> None:
    """Send queued commands and configuration to devices until Ctrl-C or SIGTERM."""
    raise NotImplementedError
