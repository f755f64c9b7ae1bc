"""Training of the LSTM in JAX: quantile loss, averaged weights, early stopping on the last weeks.

JAX is an extra and is imported here alone, inside the functions: a fitted network predicts in NumPy. Everything random
(first weights, order of the origins) comes from NumPy's generator and the seed: a new JAX changes rounding only.

A run has two legs. First the network learns on all but the last weeks, which say when to stop. Then it goes on for some
steps on everything, slowly: the weeks that were held back are those most like tomorrow. A warm start is a shorter and
gentler second leg.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from energy_cloud_dagster.domain.errors import InvalidInput
from energy_cloud_dagster.domain.forecasting.models.lstm_features import BLOCK, LIMIT, LOOK_BACK, Singles
from energy_cloud_dagster.domain.forecasting.models.lstm_network import Weights
from energy_cloud_dagster.domain.forecasting.series import Floats, Integers

if TYPE_CHECKING:
    import jax

#: Rows are padded to a multiple of this, so that a history some weeks longer does not compile anew.
PADDING: Final = 8192
#: Weight of the loss of P10, P50 and P90.
QUANTILES: Final = (0.1, 0.5, 0.9)
#: Share of its old value that the averaged network keeps at every step.
MEMORY: Final = 0.985


@dataclass(frozen=True)
class Plan:
    """How long and how fast to train."""

    hidden: int
    head: int
    batch: int
    #: Steps between two looks at the held-back weeks, most such rounds, and rounds without a gain before it stops.
    round_steps: int
    rounds: int
    patience: int
    rate: float
    #: Steps and rate of the second leg, and the gentler ones of a warm start.
    last_steps: int
    last_rate: float
    warm_steps: int
    warm_rate: float
    decay: float
    dropout: float


@dataclass(frozen=True, eq=False)
class Material:
    """What a network is trained on; rows are hours, as in ``lstm_features.Table``.

    ``past`` and ``ahead`` are standardised. ``base`` and ``level`` are in units of the spread, ``target`` is the
    deviation from the base in its unit (0 where ``weight`` is 0: not known). ``origins`` are the rows to learn from,
    ``chance`` (same length) how often each is drawn, ``held`` the rows that decide when to stop.
    """

    past: Singles
    ahead: Singles
    origin: Singles
    base: Singles
    level: Singles
    target: Singles
    weight: Singles
    origins: Integers
    chance: Floats
    held: Integers


def load_jax() -> None:
    """Import JAX and optax; raises ``InvalidInput`` that says how to install them where they are absent."""
    try:
        import jax  # noqa: F401
        import optax  # type: ignore[import-untyped]  # noqa: F401
    except ImportError as error:
        raise InvalidInput(f"the lstm trains in JAX, which is an extra: uv sync --extra lstm ({error})") from error


def first_weights(past: int, ahead: int, plan: Plan, generator: np.random.Generator) -> Weights:
    """Return random weights for ``past`` and ``ahead`` inputs: uniform by Glorot, a forget gate that remembers."""

    def glorot(rows: int, columns: int, gates: int = 1) -> Singles:
        edge = np.sqrt(6 / (rows + columns / gates))
        return generator.uniform(-edge, edge, (rows, columns)).astype(np.float32)

    hidden = plan.hidden
    bias = np.zeros(4 * hidden, dtype=np.float32)
    bias[hidden : 2 * hidden] = 1.0
    return {
        "past": glorot(past, 4 * hidden, 4),
        "past_state": glorot(hidden, 4 * hidden, 4),
        "past_bias": bias,
        "ahead": glorot(ahead, 4 * hidden, 4),
        "ahead_state": glorot(hidden, 4 * hidden, 4),
        "ahead_bias": bias.copy(),
        "head": glorot(hidden + ahead, plan.head),
        "head_bias": np.zeros(plan.head, dtype=np.float32),
        "out": (0.1 * glorot(plan.head, 3)).astype(np.float32),
        "out_bias": np.zeros(3, dtype=np.float32),
        "skip": np.zeros(ahead, dtype=np.float32),
    }


def _walk(gates: jax.Array, state: jax.Array, output: jax.Array, memory: jax.Array) -> tuple[Any, jax.Array]:
    """Walk an LSTM cell over ``gates`` (steps, batch, 4 H): input, forget, output, candidate."""
    import jax
    import jax.numpy as jnp

    hidden = state.shape[0]

    def step(carry: tuple[jax.Array, jax.Array], row: jax.Array) -> tuple[Any, jax.Array]:
        output, memory = carry
        row = row + output @ state
        take, keep, give = (jax.nn.sigmoid(row[:, part * hidden : (part + 1) * hidden]) for part in range(3))
        memory = keep * memory + take * jnp.tanh(row[:, 3 * hidden :])
        output = give * jnp.tanh(memory)
        return (output, memory), output

    return jax.lax.scan(step, (output, memory), gates)


def _inputs(data: dict[str, jax.Array], rows: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Return look-back (168, batch, P), hours ahead (24, batch, A), target and weight (24, batch) of the origins."""
    import jax.numpy as jnp

    before = rows[None, :] + jnp.arange(-LOOK_BACK, 0)[:, None]
    after = rows[None, :] + jnp.arange(BLOCK)[:, None]
    level = data["level"][rows]
    past = data["past"][before]
    value = jnp.clip(past[:, :, 0] - level[None, :], -LIMIT, LIMIT)
    past = past.at[:, :, 0].set(jnp.where(past[:, :, 1] > 0, value, 0.0))
    origin = jnp.broadcast_to(data["origin"][rows][None], (BLOCK, len(rows), data["origin"].shape[1]))
    lead = jnp.broadcast_to((jnp.arange(BLOCK) / BLOCK)[:, None, None], (BLOCK, len(rows), 1))
    weight = data["weight"][after]
    offset = jnp.where(weight > 0, data["base"][after] - level[None, :], 0.0)[:, :, None]
    ahead = jnp.concatenate([data["ahead"][after], origin, offset, lead], axis=2)
    return past, ahead, data["target"][after], weight


def network(weights: dict[str, jax.Array], past: jax.Array, ahead: jax.Array, mask: jax.Array) -> jax.Array:
    """Return P10, P50, P90 as deviations from the base (hours, batch, 3); ``mask`` (batch, H) drops states."""
    import jax
    import jax.numpy as jnp

    zeros = jnp.zeros((past.shape[1], weights["past_state"].shape[0]), dtype=jnp.float32)
    (output, memory), _ = _walk(past @ weights["past"] + weights["past_bias"], weights["past_state"], zeros, zeros)
    gates = ahead @ weights["ahead"] + weights["ahead_bias"]
    _, hours = _walk(gates, weights["ahead_state"], output * mask, memory)
    joined = jnp.concatenate([hours * mask, ahead], axis=2)
    out = jnp.tanh(joined @ weights["head"] + weights["head_bias"]) @ weights["out"] + weights["out_bias"]
    middle = out[:, :, 1] + ahead @ weights["skip"]
    low, high = middle - jax.nn.softplus(out[:, :, 0]), middle + jax.nn.softplus(out[:, :, 2])
    return jnp.stack([low, middle, high], axis=2)


def _loss(weights: dict[str, jax.Array], data: dict[str, jax.Array], rows: jax.Array, mask: jax.Array) -> jax.Array:
    """Return the pinball loss, summed over the quantiles, averaged over the known hours ahead of the origins."""
    import jax.numpy as jnp

    past, ahead, target, weight = _inputs(data, rows)
    errors = target[:, :, None] - network(weights, past, ahead, mask)
    levels = jnp.asarray(QUANTILES, dtype=jnp.float32)
    pinball = jnp.maximum(levels * errors, (levels - 1) * errors).sum(axis=2)
    return (pinball * weight).sum() / jnp.maximum(weight.sum(), 1.0)


@lru_cache(maxsize=8)
def _programs(decay: float) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Return the compiled ``(train, score)``; kept, since compiling takes seconds."""
    import jax
    import optax

    adam = optax.chain(optax.clip_by_global_norm(1.0), optax.scale_by_adam())

    def train(state: Any, data: dict[str, jax.Array], rows: jax.Array, rates: jax.Array, masks: jax.Array) -> Any:
        def step(carry: Any, batch: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[Any, jax.Array]:
            weights, average, memory = carry
            drawn, rate, mask = batch
            value, slope = jax.value_and_grad(_loss)(weights, data, drawn, mask)
            change, memory = adam.update(slope, memory, weights)
            weights = jax.tree.map(lambda old, new: old - rate * (new + decay * old), weights, change)
            average = jax.tree.map(lambda old, new: MEMORY * old + (1 - MEMORY) * new, average, weights)
            return (weights, average, memory), value

        return jax.lax.scan(step, state, (rows, rates, masks))

    options: Any = {"xla_cpu_multi_thread_eigen": False}  # one thread: the same sums in the same order
    trained = jax.jit(train, compiler_options=options)

    def run(state: Any, *rest: Any) -> Any:
        return trained((state, state, adam.init(state)) if isinstance(state, dict) else state, *rest)

    return run, jax.jit(_loss, compiler_options=options)


def _on_device(material: Material) -> dict[str, Any]:
    """Return the arrays, padded with rows that no origin reaches."""
    import jax.numpy as jnp

    rows = len(material.target)
    extra = -(rows + BLOCK) % PADDING + BLOCK
    arrays = {}
    for name in ("past", "ahead", "origin", "base", "level", "target", "weight"):
        values = getattr(material, name)
        arrays[name] = jnp.asarray(np.pad(values, [(0, extra)] + [(0, 0)] * (values.ndim - 1)))
    return arrays


def _draw(
    generator: np.random.Generator, plan: Plan, rows: Integers, chance: Floats, steps: int
) -> tuple[npt.NDArray[np.int32], Singles]:
    size = (steps, plan.batch)
    drawn = generator.choice(rows, size=size, p=chance / chance.sum()).astype(np.int32)
    keep = generator.random((steps, plan.batch, plan.hidden)) >= plan.dropout
    return drawn, (keep / (1 - plan.dropout)).astype(np.float32)


def train(
    material: Material,
    plan: Plan,
    *,
    seed: int,
    warm: Weights | None = None,
    told: Callable[[int, float], None] | None = None,
) -> Weights:
    """Return trained weights, by a gentler second leg alone from ``warm`` on where given.

    ``told`` hears every round's number and the loss on the held-back weeks. The same arguments give the same weights.
    Raises ``InvalidInput`` where JAX is absent or the loss is not finite.
    """
    load_jax()
    while plan.round_steps > 16 and plan.round_steps * plan.batch > len(
        material.origins
    ):  # a round is an epoch at most
        halves = {name: getattr(plan, name) // 2 for name in ("round_steps", "last_steps", "warm_steps")}
        plan = replace(plan, **halves)
    generator = np.random.default_rng(seed)
    run, score = _programs(plan.decay)
    data = _on_device(material)
    if warm is None:
        width = material.ahead.shape[1] + material.origin.shape[1] + 2
        weights: Any = first_weights(material.past.shape[1], width, plan, generator)
        weights = _first_leg(material, plan, data, weights, run, score, generator, told)
    else:
        weights = warm
    steps, rate = (plan.last_steps, plan.last_rate) if warm is None else (plan.warm_steps, plan.warm_rate)
    drawn, masks = _draw(generator, plan, material.origins, material.chance, steps)
    rates = rate * np.cos(np.linspace(0, np.pi / 2, steps, endpoint=False))
    (_, average, _), values = run(weights, data, drawn, rates.astype(np.float32), masks)
    if not np.isfinite(np.asarray(values)).all():
        raise InvalidInput("the lstm did not converge on this history")
    return {name: np.asarray(value, dtype=np.float32) for name, value in average.items()}


def _first_leg(
    material: Material,
    plan: Plan,
    data: dict[str, Any],
    weights: Any,
    run: Callable[..., Any],
    score: Callable[..., Any],
    generator: np.random.Generator,
    told: Callable[[int, float], None] | None,
) -> Any:
    """Return the averaged weights of the round that did best on the held-back weeks."""
    held = material.held.astype(np.int32)
    first = held.min() - BLOCK
    learn = material.origins <= first
    rows, chance = material.origins[learn], material.chance[learn]
    ones = np.ones((len(held), plan.hidden), dtype=np.float32)
    total = plan.rounds * plan.round_steps
    steps = np.arange(total)
    rates = plan.rate * np.minimum((steps + 1) / plan.round_steps, 0.5 + 0.5 * np.cos(np.pi * steps / total))
    best, least, waited = weights, np.inf, 0
    state = weights
    for number in range(plan.rounds):
        drawn, masks = _draw(generator, plan, rows, chance, plan.round_steps)
        part = rates[number * plan.round_steps : (number + 1) * plan.round_steps]
        state, _ = run(state, data, drawn, part.astype(np.float32), masks)
        value = float(score(state[1], data, held, ones))
        if told is not None:
            told(number, value)
        if not np.isfinite(value):
            raise InvalidInput("the lstm did not converge on this history")
        if value < least:
            best, least, waited = state[1], value, 0
        else:
            waited += 1
            if waited >= plan.patience:
                break
    return best
