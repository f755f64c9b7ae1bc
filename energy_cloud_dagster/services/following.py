"""Keeps allocations going: commands each step at its time, and sends devices that fell silent their safe setpoint.

Where plans are applied by themselves it makes an allocation of every new hourly plan, too.

It works while the outbox is connected, for it commands through it. Devices are judged only after it has listened for a
watchdog's time itself: what was not heard before that is nobody's silence.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Final

import structlog

from energy_cloud_dagster.adapters import allocations, plan_allocations
from energy_cloud_dagster.services.storing import Writer

log = structlog.get_logger()

DEFAULT_WATCHDOG: Final = timedelta(seconds=60)
#: Steps begin within so many seconds of their time; commands of the step before hold longer than that.
_STEP_SECONDS: Final = 2.0
#: A device is found silent so much later than it fell silent, in watchdogs, and at most so many seconds.
_LATE_SHARE: Final = 0.25
_LATEST_SECONDS: Final = 15.0
#: A new plan is taken up within so many seconds.
_PLAN_SECONDS: Final = 5.0


class Following:
    """Work that is due again and again; ``work`` returns at once where it is not.

    ``applies_plans``: hourly plans are applied by themselves, up to ``approval_kw`` (None: no bound) without approval.
    """

    def __init__(
        self,
        writer: Writer,
        watchdog: timedelta,
        *,
        applies_plans: bool = False,
        approval_kw: float | None = None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._writer = writer
        self._watchdog = watchdog
        self._applies_plans = applies_plans
        self._approval_kw = approval_kw
        self._clock = clock
        self._listens_since = time.monotonic()
        self._looks_every = min(_LATE_SHARE * watchdog.total_seconds(), _LATEST_SECONDS)
        self._stepped = self._looked = self._planned = float("-inf")

    @property
    def pause_seconds(self) -> float:
        """Return for how long nothing needs to be done."""
        return min(_STEP_SECONDS, self._looks_every)

    def work(self) -> Counter[str]:
        """Do what is due; return how many plans are ``taken_up``, setpoints ``stepped`` and devices ``fallen_back``."""
        done: Counter[str] = Counter()
        moment = time.monotonic()
        if self._applies_plans and moment - self._planned >= _PLAN_SECONDS:
            taken = self._writer.until_committed(
                lambda connection: plan_allocations.take_up(connection, self._clock(), self._approval_kw)
            )
            for made in taken or ():
                done["taken_up"] += 1
                log.info("plan_taken_up", vpp_id=made.vpp_id, allocation_id=made.allocation_id, state=made.state)
            self._planned = moment
        if moment - self._stepped >= _STEP_SECONDS:
            while changed := self._writer.until_committed(
                lambda connection: allocations.advance(connection, self._clock())
            ):
                done["stepped"] += changed
            self._stepped = moment
        listened = moment - self._listens_since
        if listened >= self._watchdog.total_seconds() and moment - self._looked >= self._looks_every:
            while fallen := self._writer.until_committed(
                lambda connection: allocations.fall_back(connection, self._clock(), self._watchdog)
            ):
                done["fallen_back"] += len(fallen)
                for each in fallen:
                    log.warning("device_silent", vpp_id=each.vpp_id, device_id=each.device_id, safe_kw=each.safe_kw)
            self._looked = moment
        return done
