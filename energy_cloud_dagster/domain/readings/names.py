"""Names that may stand as one level of a topic, and as a user in a broker's password and access files."""

from __future__ import annotations

from typing import Final

from energy_cloud_dagster.domain.errors import InvalidInput
from energy_cloud_dagster.domain.readings.conversion import shown

MAX_NAME_LENGTH: Final = 128
#: Users of the broker that are no devices: the platform's own clients, and the name that stands for any device.
PLATFORM_USER: Final = "energy-cloud"
ANY_DEVICE_USER: Final = "device-token"
RESERVED: Final = frozenset({PLATFORM_USER, ANY_DEVICE_USER})
#: Separates levels, matches levels, separates user and hash.
_SPECIAL: Final = frozenset("/+#:")


def topic_safe(name: str) -> bool:
    """Whether ``name`` can name a device wherever one is named: in topics, in password files, in access lists."""
    return (
        0 < len(name) <= MAX_NAME_LENGTH
        and name.isprintable()
        and not any(letter.isspace() or letter in _SPECIAL for letter in name)
        and not name.startswith("$")
        # a client takes these two out of an address before it asks
        and name not in {".", ".."}
        and name not in RESERVED
    )


def require_topic_safe(name: str, what: str, pointer: str) -> None:
    """Raise ``InvalidInput`` with ``pointer`` where ``name``, which is ``what``, is not ``topic_safe``."""
    if name in RESERVED:
        raise InvalidInput(f"{name} is the platform's own user at the broker; choose another {what}", pointer=pointer)
    if not topic_safe(name):
        raise InvalidInput(
            f"{shown(name)} cannot be a {what}: use 1 to {MAX_NAME_LENGTH} printable characters without spaces, "
            "without / + # : and without $ in front, and neither . nor ..",
            pointer=pointer,
        )
