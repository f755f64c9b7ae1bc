"""The HTTP API: thin routes over what was stored and materialised."""
