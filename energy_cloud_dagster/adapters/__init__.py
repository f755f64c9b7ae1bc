"""All input and output: database, broker, SCADA, chain. No Dagster here; one function per query."""
