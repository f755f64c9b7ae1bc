"""Many sites at once, in columns: one pooled model beside cheap ones, weighed site by site, and reconciliation."""
