"""Energy Cloud: a workflow-orchestrated energy data platform for the WIA-ENE-014 standard."""
