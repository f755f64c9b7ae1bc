"""Split readings into those that pass the row rules and those that go to quarantine, with the rule that they failed."""

from __future__ import annotations

import pandas as pd

from energy_cloud_dagster.quality.rules import plausible_range
from energy_cloud_dagster.quality.suites import SuiteResult, row_suite, run_suite


def split_by_row_rules(readings: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame, SuiteResult]:
    """Return ``(valid, quarantined, result)``.

    ``readings`` has ``series_id, ts, revision, value, quality, received_at, role``. ``quarantined`` has one row for
    each rule that a reading failed, with ``rule`` and ``detail``.
    """
    if readings.empty:
        return readings, readings.assign(rule=pd.Series(dtype=str), detail=pd.Series(dtype=str)), SuiteResult("empty")
    ranges = {role: plausible_range(role) for role in readings["role"].unique()}
    frame = readings.assign(
        least=readings["role"].map(lambda role: ranges[role].least),
        greatest=readings["role"].map(lambda role: ranges[role].greatest),
    )
    result = run_suite(row_suite(), frame)
    failed = []
    for rule in result.rules:
        if rule.failed_index:
            rows = frame.loc[list(rule.failed_index)]
            detail = [
                f"{row.value} is outside {row.least} to {row.greatest} for {str(row.role) or 'a series without a role'}"
                if rule.rule.endswith("plausible_range")
                else f"value {row.value}, quality {row.quality}"
                for row in rows.itertuples()
            ]
            failed.append(rows.assign(rule=rule.rule, detail=detail))
    columns = [*readings.columns, "rule", "detail"]
    quarantined = pd.concat(failed)[columns] if failed else readings.iloc[0:0].reindex(columns=columns)
    return readings.drop(index=quarantined.index.unique()), quarantined, result
