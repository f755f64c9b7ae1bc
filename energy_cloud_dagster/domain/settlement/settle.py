"""Settlement of one delivery hour on metered delivery, in integer Wh and micro units.

Signs: injected and sold energy is positive, consumed and bought energy negative; earned money is positive. Every column
of the positions sums to zero, because the grid participant takes the other side of whatever the others leave open:

- ``scheduled = traded + schedule`` is what a participant owes the grid, ``deviation = metered - scheduled``.
- A negative deviation (short) is bought from the grid at the short price, a positive one (long) sold to it at the long
  price. The short price is 110 % of the import price, rounded up; the long price is 90 % of the export price, rounded
  down: keeping to the schedule is never worse than deviating.
- Buyers pay for the traded quantity in full: what a seller did not deliver, it bought from the grid for them.
- What a participant's schedule holds beyond trades (a VPP's planned exchange) belongs to its own contract with the
  grid and is not priced here.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from energy_cloud_dagster.domain.errors import InvalidInput
from energy_cloud_dagster.domain.market.orders import Trade
from energy_cloud_dagster.domain.units import value_micro

GRID: Final = "GRID"
SHORT_PERCENT: Final = 110
LONG_PERCENT: Final = 90


@dataclass(frozen=True, slots=True)
class ImbalancePrices:
    """Prices of deviations, micro units per kWh: what the short pay and what the long receive."""

    short_micro: int
    long_micro: int


@dataclass(frozen=True, slots=True)
class Position:
    """One participant's account of one delivery hour; signs as in the module's docstring."""

    participant_id: str
    traded_wh: int
    scheduled_wh: int
    metered_wh: int
    deviation_wh: int
    trade_micro: int
    imbalance_micro: int
    net_micro: int

    @property
    def energy_wh(self) -> int:
        """Energy that this batch moves: traded plus deviation, that is metered less the schedule beyond trades.

        This is the contract's ``energy`` (injected positive); it sums to zero over a batch.
        """
        return self.traded_wh + self.deviation_wh


@dataclass(frozen=True, slots=True)
class SettledTrade:
    """A trade after delivery: ``delivered_wh + shortfall_wh`` is its quantity, ``value_micro`` is owed in full."""

    trade_id: str
    delivered_wh: int
    shortfall_wh: int
    value_micro: int


@dataclass(frozen=True, slots=True)
class Settlement:
    """Positions by participant id (the grid's among them) and settled trades by trade id, both sorted."""

    positions: tuple[Position, ...]
    trades: tuple[SettledTrade, ...]


def imbalance_prices(import_price_micro: int, export_price_micro: int) -> ImbalancePrices:
    """Return the prices of deviations in an hour with these import and export prices, import ≥ export ≥ 0."""
    if not 0 <= export_price_micro <= import_price_micro:
        raise InvalidInput(
            f"the export price {export_price_micro} must lie within 0 and the import price {import_price_micro}"
        )
    return ImbalancePrices(-(-import_price_micro * SHORT_PERCENT // 100), export_price_micro * LONG_PERCENT // 100)


def settle(
    trades: Iterable[Trade],
    schedule_wh: Mapping[str, int],
    metered_wh: Mapping[str, int],
    prices: ImbalancePrices,
    grid_id: str = GRID,
) -> Settlement:
    """Settle one delivery hour.

    ``schedule_wh`` is each participant's planned net injection beyond its trades (absent: 0), ``metered_wh`` its
    measured net injection, generation less consumption. Everybody in ``metered_wh`` gets a position. The grid is
    nobody's meter: its row closes the books. Raises ``InvalidInput`` when a trader or a scheduled participant has no
    metered value, when a trade comes twice, or when the grid is given a meter or a schedule.
    """
    book = sorted(trades, key=lambda trade: trade.trade_id)
    _check(book, schedule_wh, metered_wh, grid_id)
    traded: defaultdict[str, int] = defaultdict(int)
    earned: defaultdict[str, int] = defaultdict(int)
    sold: defaultdict[str, list[Trade]] = defaultdict(list)
    for trade in book:
        traded[trade.seller_id] += trade.quantity_wh
        traded[trade.buyer_id] -= trade.quantity_wh
        earned[trade.seller_id] += trade.value_micro
        earned[trade.buyer_id] -= trade.value_micro
        sold[trade.seller_id].append(trade)
    positions = {
        one: _position(one, (traded[one], earned[one]), schedule_wh.get(one, 0), metered_wh[one], prices)
        for one in sorted(metered_wh)
    }
    settled: list[SettledTrade] = []
    for seller, own in sold.items():
        total = sum(trade.quantity_wh for trade in own)
        missing = 0 if seller == grid_id else min(total, max(0, -positions[seller].deviation_wh))
        settled += _deliver(own, total - missing, total)
    positions[grid_id] = _grid(grid_id, traded[grid_id], earned[grid_id], positions.values())
    return Settlement(
        positions=tuple(positions[one] for one in sorted(positions)),
        trades=tuple(sorted(settled, key=lambda trade: trade.trade_id)),
    )


def _check(book: list[Trade], schedule_wh: Mapping[str, int], metered_wh: Mapping[str, int], grid_id: str) -> None:
    for one, other in pairwise(book):
        if one.trade_id == other.trade_id:
            raise InvalidInput(f"trade {one.trade_id} comes twice")
    if grid_id in metered_wh or grid_id in schedule_wh:
        raise InvalidInput(f"{grid_id} closes the books; it has neither a meter nor a schedule of its own")
    concerned = set(schedule_wh) | {party for trade in book for party in (trade.buyer_id, trade.seller_id)}
    unmetered = sorted(concerned - {grid_id} - set(metered_wh))
    if unmetered:
        raise InvalidInput(f"no metered energy for {', '.join(unmetered)}: the hour cannot be settled")


def _position(
    participant_id: str, trade: tuple[int, int], schedule: int, metered: int, prices: ImbalancePrices
) -> Position:
    traded, earned = trade
    scheduled = traded + schedule
    deviation = metered - scheduled
    imbalance = value_micro(deviation, prices.short_micro if deviation < 0 else prices.long_micro)
    return Position(participant_id, traded, scheduled, metered, deviation, earned, imbalance, earned + imbalance)


def _grid(grid_id: str, traded: int, earned: int, others: Iterable[Position]) -> Position:
    """Return the row that brings every column to zero."""
    rows = list(others)
    imbalance = -sum(row.imbalance_micro for row in rows)
    return Position(
        participant_id=grid_id,
        traded_wh=traded,
        scheduled_wh=-sum(row.scheduled_wh for row in rows),
        metered_wh=-sum(row.metered_wh for row in rows),
        deviation_wh=-sum(row.deviation_wh for row in rows),
        trade_micro=earned,
        imbalance_micro=imbalance,
        net_micro=earned + imbalance,
    )


def _deliver(own: list[Trade], delivered: int, total: int) -> list[SettledTrade]:
    """Share ``delivered`` of ``total`` Wh among a seller's trades by quantity, by largest remainder, then trade id."""
    shares = [divmod(delivered * trade.quantity_wh, total) for trade in own]
    left = delivered - sum(whole for whole, _ in shares)
    order = sorted(range(len(own)), key=lambda i: (-shares[i][1], own[i].trade_id))
    extra = set(order[:left])
    return [
        SettledTrade(trade.trade_id, part, trade.quantity_wh - part, trade.value_micro)
        for i, trade in enumerate(own)
        for part in [shares[i][0] + (i in extra)]
    ]
