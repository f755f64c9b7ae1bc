"""The assets in flow order. Each is thin: load, call the domain, save, report metadata.

readings → marts → forecasts → dispatch → market → settlement → evidence

Groups are numbered, so that the UI lists them in flow order.
"""

import warnings

import dagster as dg

# single-run backfills and partitioned checks are what a range of hours rests on; Dagster marks them as beta and preview
for _category in (dg.BetaWarning, dg.PreviewWarning):
    warnings.filterwarnings("ignore", category=_category)
