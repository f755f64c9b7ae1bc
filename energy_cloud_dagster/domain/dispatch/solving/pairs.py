"""Flows that exclude each other: a store's charge and discharge, a tie's import and export.

A linear programme may run both at once where burning energy costs nothing or pays. What can be netted without a
solve is netted; the rest is found here, for :mod:`goals` to keep apart.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from energy_cloud_dagster.domain.dispatch.flows import Flows
from energy_cloud_dagster.domain.dispatch.problem import BoolArray, Problem
from energy_cloud_dagster.domain.dispatch.solving.matrices import DRAWS, EITHER, FREE, SUPPLIES, Directions

#: Flows below this share of the capacity are the solver's tolerance, not a decision.
NOTHING: Final = 1e-7


@dataclass(frozen=True, slots=True, eq=False)
class Pairs:
    """What each pair of flows may do, by ``matrices``' constants: ``stores`` (S, T) and ``ties`` (K, T)."""

    stores: Directions
    ties: Directions

    def any(self) -> bool:
        """Whether any pair is held at all."""
        return bool(self.stores.any() or self.ties.any())

    def or_else(self, other: Pairs) -> Pairs:
        """Return these pairs, and the other's where these are free."""
        return Pairs(
            np.where(self.stores == FREE, other.stores, self.stores),
            np.where(self.ties == FREE, other.ties, self.ties),
        )

    def either(self) -> Pairs:
        """Return the same pairs left to integers."""
        return Pairs(_either(self.stores), _either(self.ties))

    def within(self, other: Pairs) -> Pairs:
        """Return these pairs as far as the other holds them too."""
        return Pairs(
            np.where(other.stores == FREE, np.int8(FREE), self.stores),
            np.where(other.ties == FREE, np.int8(FREE), self.ties),
        )


def _either(pairs: Directions) -> Directions:
    return np.where(pairs == FREE, np.int8(FREE), np.int8(EITHER))


def netted(problem: Problem, flows: Flows) -> Flows:
    """Cancel import and export at once where that costs nothing; every other constraint only gains."""
    ties = problem.ties
    if not ties.exports.any():
        return flows
    both = np.minimum(flows.imported, flows.exported)
    # nan, where nothing may be exported, compares as false
    both = np.where(ties.cost >= ties.export_price, both, 0.0)
    if not both.any():
        return flows
    return replace(flows, imported=flows.imported - both, exported=flows.exported - both)


def overlaps(problem: Problem, flows: Flows) -> Pairs | None:
    """Return the pairs that run at once, in the direction that each has as a whole; ``None`` if there are none."""
    stores, ties = problem.stores, problem.ties
    at_once = np.minimum(flows.charge, flows.discharge) > NOTHING * np.maximum(1.0, stores.power)
    crossed = np.minimum(flows.imported, flows.exported) > NOTHING * np.maximum(1.0, ties.capacity)
    if not (at_once.any() or crossed.any()):
        return None
    every = directions(problem, flows)
    return Pairs(_masked(every.stores, at_once), _masked(every.ties, crossed))


def directions(problem: Problem, flows: Flows) -> Pairs:
    """Return the direction of every pair; what counts for a store is whether its energy falls."""
    efficiency = problem.stores.efficiency[:, None]
    exporting = np.broadcast_to(problem.ties.exports[:, None], flows.imported.shape)
    return Pairs(
        _direction(flows.discharge >= flows.charge * efficiency),
        _masked(_direction(flows.imported >= flows.exported), exporting),
    )


def with_paying_ties(problem: Problem, pairs: Pairs) -> Pairs:
    """Add, where integers hold a tie at all, every step in which it would earn from import and export at once.

    They would come to overlap one after the other, each for another solve.
    """
    held = (pairs.ties != FREE).any(axis=1, keepdims=True)
    # nan, where nothing may be exported, compares as false
    paying = held & (problem.ties.cost < problem.ties.export_price) & (problem.ties.capacity > 0)
    return Pairs(pairs.stores, np.where(paying & (pairs.ties == FREE), np.int8(EITHER), pairs.ties))


def _direction(supplies: BoolArray) -> Directions:
    return np.where(supplies, np.int8(SUPPLIES), np.int8(DRAWS))


def _masked(pairs: Directions, mask: BoolArray) -> Directions:
    return np.where(mask, pairs, np.int8(FREE))
