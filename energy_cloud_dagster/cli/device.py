"""`energy-cloud device`: the registry of devices and their credentials."""

from __future__ import annotations

import typer

app = typer.Typer(help="Register devices and manage their tokens.", no_args_is_help=True)


@app.callback()
def _noun() -> None:
    """Keep the noun a group while it has few verbs."""
