"""Proof: canonical bytes, digests, Merkle trees, the evidence of one trade, and the comparison that verifies it."""
