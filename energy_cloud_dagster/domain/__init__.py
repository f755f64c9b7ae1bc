"""The energy domain: pure functions and plain data. No I/O, no clock, no environment, no logging."""
