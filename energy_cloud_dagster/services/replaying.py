"""Play a stream of messages to the broker: at the pace of their receipts, any number of times faster, or at once."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Final

import structlog

from energy_cloud_dagster.domain.errors import InvalidInput
from energy_cloud_dagster.services.mqtt_fleet import FleetClient, Published
from energy_cloud_dagster.services.simulator import Message

log = structlog.get_logger()

#: A speed-up without limit: as fast as the broker takes it.
AT_ONCE: Final = math.inf
_TOLD_EVERY: Final = 1_000


def speed_up_of(text: str) -> float:
    """Read a speed-up: a number above 0, or ``max`` (also ``0``) for as fast as the broker takes it."""
    try:
        factor = AT_ONCE if text.strip().lower() == "max" else float(text)
    except ValueError:
        factor = math.nan
    if math.isnan(factor) or factor < 0:
        raise InvalidInput(f"speed-up {text!r} is neither a number above 0 nor max")
    return factor or AT_ONCE


def play(
    client: FleetClient,
    stream: Iterable[Message],
    begin: datetime,
    *,
    speed_up: float = AT_ONCE,
    simulated_receipt: bool = False,
    stop: threading.Event | None = None,
    progress: Callable[[int], None] | None = None,
) -> Published:
    """Publish ``stream`` and return after the last acknowledgement, or earlier once ``stop`` is set.

    The simulated clock starts at ``begin`` now and runs ``speed_up`` times faster than the wall; each message is sent
    when it shows the message's receipt. ``progress`` is told now and then how many were sent. Raises
    ``BrokerUnavailable`` when the broker stops taking them.
    """
    stop = stop or threading.Event()
    began, sent = time.monotonic(), 0
    for message in stream:
        wait = (message.received_at - begin).total_seconds() / speed_up - (time.monotonic() - began)
        if (wait > 0 and stop.wait(wait)) or stop.is_set():
            break
        client.publish(message.topic, message.payload(simulated_receipt=simulated_receipt))
        sent += 1
        if progress is not None and sent % _TOLD_EVERY == 0:
            progress(sent)
    client.flush()
    if progress is not None:
        progress(sent)
    seconds = time.monotonic() - began
    log.info("fleet_played", messages=sent, seconds=round(seconds, 3))
    return Published(sent, seconds)
