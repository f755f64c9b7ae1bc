"""How much of a time limit is left, for solves that share one."""

from __future__ import annotations

from math import inf
from time import monotonic
from typing import Final

#: The share of a limit that a search for decisions (integers) leaves to what makes a plan of them.
SEARCH: Final = 0.75
#: What a first plan, or the word on why there is none, may take beyond the limit rather than be given up.
GRACE: Final = 1.25


class Budget:
    """A time limit in seconds (``None``: none) that runs from now on.

    It reads the clock as the solver under a limit does: what lies between the solves counts too.
    """

    def __init__(self, limit: float | None) -> None:
        self.limit = limit
        self._start = monotonic()

    def left(self, share: float = 1.0) -> float | None:
        """Return the seconds until ``share`` of the limit is over, at least 0; ``None`` where there is no limit."""
        return None if self.limit is None else max(self._start + share * self.limit - monotonic(), 0.0)

    def over(self, share: float = 1.0) -> bool:
        """Whether ``share`` of the limit is over."""
        left = self.left(share)
        return (inf if left is None else left) <= 0
