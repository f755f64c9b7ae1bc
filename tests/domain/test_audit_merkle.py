"""Merkle trees: the tree of RFC 6962, and proofs that no changed byte survives."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from energy_cloud_dagster.domain.audit.merkle import (
    from_hex,
    leaf_hash,
    node_hash,
    proof,
    proofs,
    root,
    to_hex,
    verify,
)
from energy_cloud_dagster.domain.errors import InvalidInput

#: The test leaves of the certificate-transparency reference code and its root over all eight.
KNOWN = [
    b"",
    b"\x00",
    b"\x10",
    bytes.fromhex("2021"),
    bytes.fromhex("3031"),
    bytes.fromhex("40414243"),
    bytes.fromhex("5051525354555657"),
    bytes.fromhex("606162636465666768696a6b6c6d6e6f"),
]
KNOWN_ROOT = "0x5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328"


@st.composite
def places(draw: st.DrawFn) -> tuple[list[bytes], int]:
    count = draw(st.integers(1, 40))
    return [leaf_hash(bytes([i])) for i in range(count)], draw(st.integers(0, count - 1))


def reference_root(leaves: list[bytes]) -> bytes:
    """The recursive definition of RFC 6962: split at the largest power of two below the count."""
    if len(leaves) == 1:
        return leaves[0]
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    return node_hash(reference_root(leaves[:split]), reference_root(leaves[split:]))


def test_known_tree() -> None:
    leaves = [leaf_hash(data) for data in KNOWN]
    assert to_hex(root(leaves)) == KNOWN_ROOT
    assert leaf_hash(b"x") == hashlib.sha256(b"\x00x").digest()


@given(places())
@settings(max_examples=60, deadline=None)
def test_every_leaf_is_proved(place: tuple[list[bytes], int]) -> None:
    leaves, index = place
    assert root(leaves) == reference_root(leaves)
    assert verify(leaves[index], index, len(leaves), proof(leaves, index), root(leaves))
    assert proofs(leaves)[index] == proof(leaves, index)


@given(places(), st.data())
@settings(max_examples=100, deadline=None)
def test_any_change_is_rejected(place: tuple[list[bytes], int], data: st.DataObject) -> None:
    leaves, index = place
    count, path, top = len(leaves), proof(leaves, index), root(leaves)

    def bitten(value: bytes) -> bytes:
        at, mask = data.draw(st.integers(0, 31)), data.draw(st.integers(1, 255))
        return value[:at] + bytes([value[at] ^ mask]) + value[at + 1 :]

    assert not verify(bitten(leaves[index]), index, count, path, top)
    assert not verify(leaves[index], index, count, path, bitten(top))
    if path:
        at = data.draw(st.integers(0, len(path) - 1))
        assert not verify(leaves[index], index, count, [*path[:at], bitten(path[at]), *path[at + 1 :]], top)
        assert not verify(leaves[index], index, count, path[:-1], top)
        assert not verify(leaves[index], index, count, path[:at] + path[at + 1 :], top)
    assert not verify(leaves[index], index, count, [*path, bytes(32)], top)
    other = data.draw(st.integers(-1, count).filter(lambda i: i != index))
    assert not verify(leaves[index], other, count, path, top)


def test_a_node_never_passes_for_a_leaf() -> None:
    leaves = [leaf_hash(bytes([i])) for i in range(4)]
    inner = node_hash(leaves[0], leaves[1])
    assert not verify(leaf_hash(leaves[0] + leaves[1]), 0, 2, [node_hash(leaves[2], leaves[3])], root(leaves))
    assert inner != leaf_hash(leaves[0] + leaves[1])


def test_wrong_shapes() -> None:
    leaves = [leaf_hash(b"a"), leaf_hash(b"b")]
    with pytest.raises(InvalidInput, match="empty tree"):
        root([])
    with pytest.raises(InvalidInput, match="empty tree"):
        proof([], 0)
    with pytest.raises(InvalidInput, match="no leaf 2 in a tree of 2"):
        proof(leaves, 2)
    with pytest.raises(InvalidInput, match="32 bytes"):
        root([b"short"])
    assert not verify(b"short", 0, 2, proof(leaves, 0), root(leaves))
    assert not verify(leaves[0], 0, 0, [], leaves[0])
    assert from_hex(to_hex(leaves[0])) == leaves[0]
    for text in ("0xAB", "ab", "0xzz", "0x a", ""):
        with pytest.raises(InvalidInput, match="lower-case hex"):
            from_hex(text)
