"""One module per section of the API."""
