"""One model for all sites of a region: boosted trees on pooled, size-free columns, judged and calibrated site by site.

The trees learn what the typical day of a site misses (its P10, P50 and P90 each). A second fit, which has not seen the
last days, tells how good that is for every site beside the cheap forecasts, and how wide its bands have to be.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from energy_cloud_dagster.domain.errors import InvalidInput
from energy_cloud_dagster.domain.forecasting.arrays import packed, unpacked
from energy_cloud_dagster.domain.forecasting.forecast import QUANTILES, canonical_text, parsed_text, text_digest
from energy_cloud_dagster.domain.forecasting.models.trees import Forest, Ground
from energy_cloud_dagster.domain.forecasting.series import Floats, Integers
from energy_cloud_dagster.domain.forecasting.sites.bands import Bands, calibrated
from energy_cloud_dagster.domain.forecasting.sites.columns import FEATURES, Cheap, features, size_of
from energy_cloud_dagster.domain.forecasting.sites.panel import HOUR, Panel, wall_hours
from energy_cloud_dagster.domain.forecasting.sites.profiles import Past

#: Fewest days of history: a week to look back on, a week to learn from, and some days to be judged on. An origin that
#: is learned from has at least a week behind it.
LEAST_DAYS: Final = 18
WARM_UP_DAYS: Final = 7
#: Rows that the trees walk at once; more would leave the cache.
_CHUNK: Final = 2048
#: Trees of 31 leaves; a leaf holds a hundred hours of the pool, so that no single home draws it.
_SETTINGS: Final[Mapping[str, Any]] = {
    "objective": "quantile",
    "num_leaves": 31,
    "learning_rate": 0.05,
    "min_data_in_leaf": 100,
    "feature_fraction": 0.5,
    "bagging_fraction": 0.6,
    "bagging_freq": 1,
    "lambda_l2": 5.0,
}
_BINS: Final = 127


@dataclass(frozen=True, eq=False)
class FittedSites:
    """What was learned of a panel. Its text is all there is to it.

    ``forests`` give the deviation from the typical day's quantile in multiples of the site's size. ``worth`` is each
    site's error of the pooled P50 beside that of the similar day, on days that the judged fit had not seen (1: as
    good); ``usual`` is the median of them, which a site that came later takes, and ``judged_days`` how many days those
    were. ``bands`` hold for them in the order of ``keys``.
    """

    timezone: str
    kinds: bool
    train_start: datetime
    train_end: datetime
    forests: tuple[Forest, Forest, Forest]
    keys: tuple[str, ...]
    worth: Floats
    usual: float
    judged_days: int
    bands: Bands
    name: str = field(default="pooled_sites", init=False)

    def pooled(self, past: Past, cheap: Cheap) -> Floats:
        """Return the quantiles of every site, shape (sites, targets, 3), ascending; not calibrated."""
        return pooled_quantiles(self.forests, past, cheap)

    def judged(self, keys: tuple[str, ...]) -> tuple[Floats, Bands]:
        """Return ``worth`` (sites,) and the bands of ``keys``; of those never seen, the usual ones."""
        places = {key: place for place, key in enumerate(self.keys)}
        at = np.array([places.get(key, -1) for key in keys], dtype=np.int64)
        seen = at >= 0
        widths = np.where(seen[:, None], self.bands.sites[at], 1.0)
        return np.where(seen, self.worth[at], self.usual), Bands(self.bands.below, self.bands.above, widths)

    @property
    def digest(self) -> str:
        """SHA-256 of the text."""
        return text_digest(self.to_text())

    def to_text(self) -> str:
        """Return canonical JSON."""
        return canonical_text(
            {
                "model": self.name,
                "format": 1,
                "features": FEATURES,
                "timezone": self.timezone,
                "kinds": self.kinds,
                "train_start": self.train_start.isoformat(),
                "train_end": self.train_end.isoformat(),
                "forests": [forest.document() for forest in self.forests],
                "keys": self.keys,
                "usual": self.usual,
                "judged_days": self.judged_days,
                "worth": packed(self.worth),
                "bands": self.bands.document(),
            }
        )

    @classmethod
    def from_text(cls, text: str) -> FittedSites:
        """Return the model that ``to_text`` wrote; other text raises ``InvalidInput``."""
        document = parsed_text(text, "pooled_sites")
        if document.get("features") != FEATURES:
            raise InvalidInput("a stored model of sites was made with other columns; fit it again")
        try:
            p10, p50, p90 = (Forest.of(one) for one in document["forests"])
            return cls(
                timezone=document["timezone"],
                kinds=document["kinds"],
                train_start=datetime.fromisoformat(document["train_start"]),
                train_end=datetime.fromisoformat(document["train_end"]),
                forests=(p10, p50, p90),
                keys=tuple(document["keys"]),
                usual=float(document["usual"]),
                judged_days=int(document["judged_days"]),
                worth=unpacked(document["worth"]),
                bands=Bands.of(document["bands"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidInput(f"a stored model of sites cannot be read: {error}; fit it again") from error


@dataclass(frozen=True)
class SiteModel:
    """How to fit the sites of a region.

    ``kinds``: workdays and days off differ (loads), or not (the sun). ``rows`` caps the training table: with more sites
    than it holds, each origin is learned from some of them. The last fifth of the days, ``judged_days`` at most and a
    fortnight at least where that leaves two thirds to learn from, are forecast by a fit that has not seen them.
    """

    kinds: bool = True
    trees: int = 120
    rows: int = 60_000
    judged_days: int = 42

    def fit(self, panel: Panel, *, seed: int) -> FittedSites:
        """Fit on every hour of ``panel``; the caller has cut it at its now.

        The same arguments give the same text. Fewer than ``LEAST_DAYS`` days, or no site that moves, raise
        ``InvalidInput``.
        """
        days = panel.values.shape[1] / 24
        if days < LEAST_DAYS:
            raise InvalidInput(f"the pooled model of sites needs {LEAST_DAYS} days of history, {days:.0f} are known")
        walls = wall_hours(panel.index, panel.timezone)
        midnights = np.flatnonzero((walls % 24 == 0) & (np.arange(len(walls)) + 24 <= len(walls)))
        held = midnights[-min(self.judged_days, max(int(days) // 5, min(14, int(days) // 3))) :]
        worth, usual, bands = self._judged(panel, walls, held, seed)
        return FittedSites(
            timezone=panel.timezone,
            kinds=self.kinds,
            train_start=panel.start.to_pydatetime(),
            train_end=(panel.start + panel.values.shape[1] * HOUR).to_pydatetime(),
            forests=self._grown(panel, walls, len(walls), seed),
            keys=panel.keys,
            worth=worth,
            usual=usual,
            judged_days=len(held),
            bands=bands,
        )

    def _grown(self, panel: Panel, walls: Integers, end: int, seed: int) -> tuple[Forest, Forest, Forest]:
        table, target, typical = self._table(panel, walls, end, seed)
        if len(target) < 1000:
            raise InvalidInput(f"the pooled model of sites found only {len(target)} hours to learn from")
        ground = Ground(table, np.ones(len(target)), bins=_BINS)
        p10, p50, p90 = (
            ground.grown(
                target - typical[:, place],
                rounds=self.trees,
                settings={**_SETTINGS, "alpha": share, "seed": seed},
            )
            for place, share in enumerate(QUANTILES)
        )
        return p10, p50, p90

    def _table(
        self, panel: Panel, walls: Integers, end: int, seed: int
    ) -> tuple[npt.NDArray[np.float32], Floats, Floats]:
        """Return columns, targets and typical quantiles of the hours before column ``end``, all in sites' sizes.

        Every day is learned from its local midnight and from one hour drawn at random.
        """
        draw = np.random.default_rng(seed)
        midnights = np.flatnonzero(walls[: end - 24] % 24 == 0)
        midnights = midnights[midnights >= 24 * min(2 * WARM_UP_DAYS, max(end // 48, WARM_UP_DAYS))]
        origins = np.concatenate([midnights, midnights + draw.integers(1, 24, len(midnights))])
        origins = np.unique(origins[origins + 24 <= end])
        each = int(np.clip(self.rows // (24 * max(len(origins), 1)), 1, len(panel.keys)))
        grid = panel.walls()
        tables, targets, typicals = [], [], []
        for origin in origins:
            chosen = np.sort(draw.permutation(len(panel.keys))[:each])
            past = Past.at(grid.take(chosen), int(walls[origin]), walls[origin : origin + 24], kinds=self.kinds)
            cheap, size = Cheap.of(past, kinds=self.kinds), size_of(past)
            truth = panel.values[chosen, origin : origin + 24]
            usable = np.isfinite(truth) & (size > 0)[:, None] & np.isfinite(cheap.typical[..., 1])
            scale = np.where(size > 0, size, 1.0)[:, None]
            tables.append(features(past, cheap, size)[usable])
            targets.append((truth / scale)[usable])
            typicals.append((cheap.typical / scale[..., None])[usable])
        if not tables:
            raise InvalidInput("the pooled model of sites has no day to learn from")
        return np.concatenate(tables), np.concatenate(targets), np.concatenate(typicals)

    def _judged(self, panel: Panel, walls: Integers, held: Integers, seed: int) -> tuple[Floats, float, Bands]:
        """Return worth, usual worth and bands, from the days ``held``."""
        forests = self._grown(panel, walls, int(held[0]), seed)
        grid = panel.walls()
        quantiles, similar, truth = [], [], []
        for origin in held:
            past = Past.at(grid, int(walls[origin]), walls[origin : origin + 24], kinds=self.kinds)
            cheap = Cheap.of(past, kinds=self.kinds)
            quantiles.append(pooled_quantiles(forests, past, cheap))
            similar.append(cheap.experts[..., 0])
            truth.append(panel.values[:, origin : origin + 24])
        found, actual, beside = (np.concatenate(one, axis=1) for one in (quantiles, truth, similar))
        known = np.isfinite(actual) & np.isfinite(beside) & np.isfinite(found[..., 1])
        error = np.where(known, np.abs(found[..., 1] - actual), 0.0).sum(axis=1)
        yardstick = np.where(known, np.abs(beside - actual), 0.0).sum(axis=1)
        moving = yardstick > 0
        ratio = np.where(moving, error / np.where(moving, yardstick, 1.0), np.nan)
        usual = float(np.nanmedian(ratio)) if moving.any() else 1.0
        hours = np.concatenate([walls[origin : origin + 24] % 24 for origin in held])
        return np.where(moving, ratio, usual), usual, calibrated(found, actual, known & moving[:, None], hours)


def pooled_quantiles(forests: tuple[Forest, Forest, Forest], past: Past, cheap: Cheap) -> Floats:
    """Return P10, P50 and P90 of every site, shape (sites, targets, 3), ascending; NaN where nothing is known."""
    size = size_of(past)
    table = features(past, cheap, size)
    sites, targets, width = table.shape
    rows = table.reshape(-1, width)
    found = np.empty((len(rows), 3))
    for start in range(0, len(rows), _CHUNK):
        part = slice(start, start + _CHUNK)
        for place, forest in enumerate(forests):
            found[part, place] = forest.evaluate(rows[part])
    deviation = found.reshape(sites, targets, 3) * size[:, None, None]
    return np.sort(cheap.typical + deviation, axis=-1)
