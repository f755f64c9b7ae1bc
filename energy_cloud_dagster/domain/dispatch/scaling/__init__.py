"""Thousands of resources: identical ones as one, and large programmes by way of prices, both without loss."""
