"""The one tree of errors. The domain and the adapters raise these; entry points translate them once.

EnergyCloudError
├── InvalidInput         a caller or a device sent something wrong; says what and how to mend it
│   └── Rejected         an undecodable or implausible message, with the reason under which it is kept
├── NotFound             the named thing does not exist (or is not the caller's to see)
├── Conflict             the state of the thing forbids it
├── Misconfigured        a setting is wrong; names the variable
├── EvidenceBroken       a step of an audit proof does not hold
└── PartUnavailable      a database, broker, chain or model did not answer; a later attempt may succeed
    ├── DatabaseUnavailable
    ├── BrokerUnavailable
    ├── ChainUnavailable
    └── WeatherUnavailable
"""

from __future__ import annotations


class EnergyCloudError(Exception):
    """Base of all errors that this platform raises on purpose."""

    #: Whether the same call may succeed later without any change.
    retryable: bool = False


class InvalidInput(EnergyCloudError):
    """Input that cannot be accepted; the message says what to fix.

    ``pointer`` is a JSON pointer to the faulty place where one is known.
    """

    def __init__(self, message: str, *, pointer: str = "") -> None:
        super().__init__(message)
        self.pointer = pointer


class Rejected(InvalidInput):
    """A message that is kept in ``raw.rejected`` under ``reason`` (a short snake_case code)."""

    def __init__(self, reason: str, detail: str, *, pointer: str = "") -> None:
        super().__init__(detail, pointer=pointer)
        self.reason = reason
        self.detail = detail


class NotFound(EnergyCloudError):
    """The named thing does not exist, or is not the caller's to see."""


class Conflict(EnergyCloudError):
    """The present state of the thing forbids the call."""


class Misconfigured(EnergyCloudError):
    """A setting is wrong; the message names the variable and the mend."""


class EvidenceBroken(EnergyCloudError):
    """A step of an audit proof does not hold; ``step`` names it."""

    def __init__(self, step: str, message: str) -> None:
        super().__init__(message)
        self.step = step


class PartUnavailable(EnergyCloudError):
    """A part that the platform relies on did not answer; a later attempt may succeed."""

    retryable = True


class DatabaseUnavailable(PartUnavailable):
    """PostgreSQL did not answer."""


class BrokerUnavailable(PartUnavailable):
    """The MQTT broker did not answer."""


class ChainUnavailable(PartUnavailable):
    """The EVM node did not answer."""


class WeatherUnavailable(PartUnavailable):
    """The weather service did not answer, or not in its own form."""
