"""The long-running processes: ingest, the SCADA bridge and the simulated fleet. No Dagster here."""
