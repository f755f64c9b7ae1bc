"""How the sentences about a plan write powers, money and the time of a step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from energy_cloud_dagster.domain.dispatch.problem import Floats, Problem

#: Names given in a list; the rest is counted.
NAMED: Final = 4
#: From this peak (kW) on a plan speaks of MW.
_MEGAWATTS_FROM: Final = 10_000.0
#: One resource of such a plan may be so small that it is told in kW all the same.
_KILOWATTS_BELOW: Final = 100.0


class Units:
    """kW or MW for a whole plan, by the largest power in it, and digits that show what matters at that size."""

    def __init__(self, peak_kw: float) -> None:
        self.factor, self.name = (1000.0, "MW") if peak_kw >= _MEGAWATTS_FROM else (1.0, "kW")
        shown = peak_kw / self.factor
        self._digits = 1 if shown >= 100 else 2 if shown >= 1 else 4
        self._form = f",.{self._digits}f"
        #: A power (kW) up to this one is written as 0.
        self.nothing = 0.05 if self.factor > 1 else 0.5 * 10**-self._digits
        #: Whether no power of the plan needs a comma or another unit, which is quicker to write.
        self._plain = peak_kw < 1000

    def power(self, kilowatts: float) -> str:
        """Return a power, such as ``4.2 MW``."""
        if self.factor > 1 and abs(kilowatts) < _KILOWATTS_BELOW:
            return f"{kilowatts:,.1f}".removesuffix(".0") + " kW"
        return f"{format(kilowatts / self.factor, self._form).rstrip('0').rstrip('.')} {self.name}"

    def powers(self, kilowatts: Floats) -> list[str]:
        """Return :meth:`power` of each value, row by row."""
        if self._plain:
            # rounded values below 1,000 have no more digits than these
            return [f"{value:.9g} kW" for value in kilowatts.round(self._digits).ravel().tolist()]
        return [self.power(value) for value in kilowatts.ravel().tolist()]


class Clock:
    """Names of the steps: ``2026-03-01 18:00 UTC`` where the problem says when it starts, else ``Step 19``."""

    def __init__(self, problem: Problem) -> None:
        self._starts: list[str] = []
        if problem.start is not None:
            # all at once: strftime would take longer than the rest of a sentence
            first = np.datetime64(problem.start.replace(tzinfo=None), "s")
            seconds = (np.arange(problem.steps) * (60 * problem.step_minutes)).astype("timedelta64[s]")
            self._starts = np.datetime_as_string(first + seconds, unit="s").tolist()

    def name(self, step: int) -> str:
        """Return the name that opens the sentence of ``step`` (from 0)."""
        if not self._starts:
            return f"Step {step + 1}"
        start = self._starts[step]
        return f"{start[:10]} {start[11:16]} UTC"

    def seen_from(self, step: int, other: int) -> str:
        """Return how the sentence of ``step`` speaks of another step: the date only where it differs."""
        if not self._starts:
            return f"in step {other + 1}"
        here, there = self._starts[step], self._starts[other]
        return f"at {there[11:16]}" if here[:10] == there[:10] else f"at {there[5:10]} {there[11:16]}"


def money(amount: float) -> str:
    """Return an amount of the market's currency to three digits, more where it is large."""
    if abs(amount) >= 100:
        return f"{amount:,.0f}"
    # what rounding leaves of nothing is nothing
    return f"{amount:.3g}" if abs(amount) >= 5e-7 else "0"


def listed(names: Sequence[str], more: int = 0) -> str:
    """Return ``a, b and c``; with ``more`` that are not named, or beyond a few names, the rest is counted."""
    if len(names) > NAMED:
        names, more = names[:NAMED], more + len(names) - NAMED
    if more:
        return f"{', '.join(names)} and {more:,} more"
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
