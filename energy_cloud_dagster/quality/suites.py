"""The suites, and one function that runs a suite over a frame and says which rows failed which rule."""

from __future__ import annotations

import itertools
import logging
import os
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any

import pandas as pd

if TYPE_CHECKING:
    from great_expectations import ExpectationSuite
    from great_expectations.data_context import EphemeralDataContext

_names = itertools.count(1)


@dataclass(frozen=True, slots=True)
class RuleResult:
    """What one rule of a suite found: how many rows it looked at and the index labels of those that failed."""

    rule: str
    passed: bool
    checked: int
    failed_index: tuple[Any, ...]
    detail: str


@dataclass(frozen=True, slots=True)
class SuiteResult:
    """What a suite found, rule by rule."""

    suite: str
    rules: tuple[RuleResult, ...] = field(default_factory=tuple)

    @property
    def passed(self) -> bool:
        """Whether every rule held."""
        return all(rule.passed for rule in self.rules)

    def failures(self) -> dict[str, int]:
        """Return the number of failing rows by rule, without the rules that held."""
        return {rule.rule: len(rule.failed_index) for rule in self.rules if not rule.passed}


@cache
def _context() -> EphemeralDataContext:
    """Return the process's one Great Expectations context; it is global there, so it is here."""
    os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")
    import great_expectations as gx

    logging.getLogger("great_expectations").setLevel(logging.WARNING)
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}
    return context


def row_suite() -> ExpectationSuite:
    """Return the row rules of readings: a frame with ``value, least, greatest, quality``.

    Rows that fail go to quarantine under the rule's name.
    """
    _context()
    from great_expectations import ExpectationSuite
    from great_expectations import expectations as gxe

    return ExpectationSuite(
        name="readings_rows",
        expectations=[
            gxe.ExpectColumnValuesToNotBeNull(column="value", meta={"rule": "value_missing"}),
            # a missing value is missing, and nothing else
            gxe.ExpectColumnPairValuesAToBeGreaterThanB(
                column_A="value",
                column_B="least",
                or_equal=True,
                ignore_row_if="either_value_is_missing",
                meta={"rule": "below_plausible_range"},
            ),
            gxe.ExpectColumnPairValuesAToBeGreaterThanB(
                column_A="greatest",
                column_B="value",
                or_equal=True,
                ignore_row_if="either_value_is_missing",
                meta={"rule": "above_plausible_range"},
            ),
            gxe.ExpectColumnValuesToBeInSet(
                column="quality", value_set=["high", "medium", "low"], meta={"rule": "quality_bad"}
            ),
        ],
    )


def delivery_suite() -> ExpectationSuite:
    """Return the set rules that a delivery hour must meet before money moves.

    The frame has one row per participant and hour: ``complete`` (1 or 0), ``net_injection_wh``, ``greatest_wh``.
    """
    _context()
    from great_expectations import ExpectationSuite
    from great_expectations import expectations as gxe

    return ExpectationSuite(
        name="delivery_before_settlement",
        expectations=[
            gxe.ExpectColumnValuesToBeInSet(column="complete", value_set=[1], meta={"rule": "meter_missing"}),
            gxe.ExpectColumnValuesToNotBeNull(column="net_injection_wh", meta={"rule": "net_injection_missing"}),
            gxe.ExpectColumnPairValuesAToBeGreaterThanB(
                column_A="greatest_wh", column_B="magnitude_wh", or_equal=True, meta={"rule": "beyond_connection"}
            ),
        ],
    )


def run_suite(suite: ExpectationSuite, frame: pd.DataFrame) -> SuiteResult:
    """Validate ``frame`` by ``suite``; failing rows are named by the frame's own index labels."""
    if frame.empty:
        return SuiteResult(suite.name)
    source = _context().data_sources.add_pandas(f"frame-{next(_names)}")
    try:
        definition = source.add_dataframe_asset("rows").add_batch_definition_whole_dataframe("all")
        numbered = frame.reset_index(drop=True)
        outcome = definition.get_batch({"dataframe": numbered}).validate(
            suite, result_format={"result_format": "COMPLETE"}
        )
    finally:
        _context().data_sources.delete(source.name)
    rules = []
    for found in outcome.results:
        rule = (found.expectation_config.meta or {}).get("rule", found.expectation_config.type)
        if "exception_message" in str(found.exception_info or "") and not found.result:
            raise RuntimeError(f"the rule {rule} could not be evaluated: {found.exception_info}")
        positions = found.result.get("unexpected_index_list") or []
        rules.append(
            RuleResult(
                rule=rule,
                passed=bool(found.success),
                checked=int(found.result.get("element_count", len(frame))),
                failed_index=tuple(frame.index[position] for position in positions),
                detail=f"{len(positions)} of {len(frame)} rows",
            )
        )
    return SuiteResult(suite.name, tuple(rules))
