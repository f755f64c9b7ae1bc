"""Random numbers that are functions: the same seed, subject and moment give the same number, in any order, anywhere.

What the simulator draws by them does not depend on how many devices there are, nor on where a replay begins or pauses.
The mixing is that of splitmix64 (Steele, Lea, Flood 2014), started from a SHA-256.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import Final

_MASK: Final = (1 << 64) - 1
_GOLDEN: Final = 0x9E3779B97F4A7C15


@lru_cache(maxsize=1 << 20)
def stream(*subject: str | int) -> int:
    """Return the 64-bit start of the numbers about ``subject``, such as a seed, a device and what is drawn."""
    text = "/".join(map(str, subject))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def roll(start: int, moment: int) -> float:
    """Return the number in [0, 1) of ``moment`` (a whole number, such as seconds) in the stream named by ``start``."""
    mixed = (start + moment * _GOLDEN) & _MASK
    mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & _MASK
    return ((mixed ^ (mixed >> 31)) >> 11) / (1 << 53)
