"""The market of one delivery hour: what participants offer, and the uniform-price call auction that clears it."""
