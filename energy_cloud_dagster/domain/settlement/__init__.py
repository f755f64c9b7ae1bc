"""Settlement of metered delivery: positions that sum to zero, and the ids of the batches that carry them."""
