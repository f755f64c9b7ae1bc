"""Merkle trees as in RFC 6962 (section 2.1), over SHA-256.

A leaf is hashed with a 0x00 prefix and a node with 0x01, so neither can pass for the other. The functions work on leaf
hashes (32 bytes). The number of leaves is not part of the root: whoever verifies takes it from a trusted place.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from energy_cloud_dagster.domain.errors import InvalidInput

HASH_BYTES = 32


def leaf_hash(data: bytes) -> bytes:
    """Return the 32-byte hash of a leaf's data."""
    return hashlib.sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Return the 32-byte hash of a node from those of its children."""
    return hashlib.sha256(b"\x01" + left + right).digest()


def root(leaves: Sequence[bytes]) -> bytes:
    """Return the root over leaf hashes in their order; an empty tree is refused with ``InvalidInput``."""
    return _levels(leaves)[-1][0]


def proof(leaves: Sequence[bytes], index: int) -> list[bytes]:
    """Return the sibling hashes of leaf ``index`` from the leaf up; a tree of one leaf has an empty proof."""
    levels = _levels(leaves)
    if not 0 <= index < len(leaves):
        raise InvalidInput(f"there is no leaf {index} in a tree of {len(leaves)}")
    return _path(levels, index)


def proofs(leaves: Sequence[bytes]) -> list[list[bytes]]:
    """Return the proof of every leaf, hashing the tree once."""
    levels = _levels(leaves)
    return [_path(levels, index) for index in range(len(leaves))]


def verify(leaf: bytes, index: int, count: int, path: Sequence[bytes], expected_root: bytes) -> bool:
    """Tell whether ``path`` leads from leaf hash ``leaf`` at ``index`` of ``count`` to the root (RFC 9162, 2.1.3.2).

    Values of the wrong size or number are not a proof: the answer is False, never an exception.
    """
    if not 0 <= index < count or any(len(one) != HASH_BYTES for one in (leaf, expected_root, *path)):
        return False
    node, last, found = index, count - 1, leaf
    for sibling in path:
        if last == 0:
            return False
        if node % 2 or node == last:
            found = node_hash(sibling, found)
            while not node % 2 and node:
                node, last = node // 2, last // 2
        else:
            found = node_hash(found, sibling)
        node, last = node // 2, last // 2
    return last == 0 and found == expected_root


def to_hex(value: bytes) -> str:
    """Return ``0x`` and lower-case hex."""
    return "0x" + value.hex()


def from_hex(text: str) -> bytes:
    """Return the bytes of what ``to_hex`` wrote; any other text, upper case included, is ``InvalidInput``."""
    try:
        value = bytes.fromhex(text.removeprefix("0x"))
    except ValueError:
        value = b""
    if to_hex(value) != text:
        raise InvalidInput(f"{text!r} is not 0x and lower-case hex")
    return value


def _levels(leaves: Sequence[bytes]) -> list[list[bytes]]:
    """Return the levels from the leaves to the root.

    Pairs are hashed; an odd last one moves up as it is, which gives RFC 6962's split at the largest power of two.
    """
    if not leaves:
        raise InvalidInput("an empty tree has no root")
    if any(len(leaf) != HASH_BYTES for leaf in leaves):
        raise InvalidInput(f"leaf hashes have {HASH_BYTES} bytes")
    levels = [list(leaves)]
    while len(levels[-1]) > 1:
        level = levels[-1]
        pairs = [node_hash(level[i], level[i + 1]) for i in range(0, len(level) - 1, 2)]
        levels.append(pairs + level[len(pairs) * 2 :])
    return levels


def _path(levels: list[list[bytes]], index: int) -> list[bytes]:
    return [level[sibling] for height, level in enumerate(levels) if (sibling := (index >> height) ^ 1) < len(level)]
