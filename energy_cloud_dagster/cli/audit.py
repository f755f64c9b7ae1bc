"""`energy-cloud audit`: proofs, recomputed from the database and the chain alone."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from energy_cloud_dagster.domain.errors import InvalidInput, NotFound

if TYPE_CHECKING:
    from energy_cloud_dagster.domain.audit.verify import StepResult

app = typer.Typer(no_args_is_help=True, help="Verify what was settled.")


@app.callback()
def _group() -> None:
    """Verify what was settled."""


@app.command()
def verify(
    kind: Annotated[str, typer.Argument(metavar="trade|batch", help="What the id names.")],
    identifier: Annotated[str, typer.Argument(metavar="ID", help="Id of the trade, or of the batch (0x…).")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the steps as JSON.")] = False,
) -> None:
    """Recompute the evidence of a trade, or of every trade of a batch, and print every step of the proof.

    Exit status 1 when a step does not hold.

    Example: energy-cloud audit verify trade T-0123456789abcdef
    """
    from energy_cloud_dagster.adapters import audit, evidence, settlements
    from energy_cloud_dagster.adapters.chain import ChainClient
    from energy_cloud_dagster.adapters.database import make_engine
    from energy_cloud_dagster.cli.attached import attached
    from energy_cloud_dagster.cli.home_database import require_migrated

    if kind not in ("trade", "batch"):
        raise typer.BadParameter("give `trade` or `batch`", param_hint="trade|batch")
    with attached() as settings:
        require_migrated(settings.database_url.get_secret_value())
        engine = make_engine(settings.database_url.get_secret_value(), pool_size=1)
        try:
            with engine.begin() as connection:
                row = evidence.of_trade(connection, identifier) if kind == "trade" else None
                if kind == "trade" and row is None:
                    raise NotFound(f"no settled trade {identifier}; list them with GET /v1/trading/history")
                batch_id = row.batch_id if row else identifier
                batch = settlements.batch_by_id(connection, batch_id)
                if batch is None:
                    raise NotFound(f"no batch {identifier}")
                if not settings.chain_rpc_url:
                    raise InvalidInput("set ENERGY_CLOUD_CHAIN_RPC_URL: a proof ends on the chain")
                chain = ChainClient(
                    settings.chain_rpc_url, settings.chain_private_key.get_secret_value(), batch.contract
                )
                found = audit.verify_batch(connection, batch_id, chain, [identifier] if row else ())
        finally:
            engine.dispose()
    if as_json:
        typer.echo(json.dumps({one: [step._asdict() for step in steps] for one, steps in found.items()}, indent=2))
    else:
        for trade_id, steps in found.items():
            _show(trade_id, steps)
    if not all(step.ok for steps in found.values() for step in steps):
        raise typer.Exit(1)


def _show(trade_id: str, steps: Sequence[StepResult]) -> None:
    console = Console(highlight=False)
    broken = next((step for step in steps if not step.ok), None)
    verdict = "[green]proved[/]" if broken is None else f"[red]broken at {broken.step}[/]"
    console.print(f"[bold]{trade_id}[/] {verdict}")
    for step in steps:
        mark = "[green]✓[/]" if step.ok else "[red]✗[/]"
        console.print(f"  {mark} {step.step:12} {step.actual[:20]:20} [dim]{step.detail}[/]", soft_wrap=True)
