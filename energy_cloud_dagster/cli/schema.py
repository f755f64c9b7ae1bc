"""`energy-cloud schema`: the WIA-ENE-014 documents, without a server or a database."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

app = typer.Typer(no_args_is_help=True, help="JSON Schemas, examples and verdicts of WIA-ENE-014 documents.")

AsJson = Annotated[bool, typer.Option("--json", help="Print machine-readable output.")]


@app.command()
def show(
    kind: Annotated[str | None, typer.Argument(help="energy, vpp or meter; by default all of them.")] = None,
    as_json: AsJson = False,  # noqa: ARG001  a schema is JSON anyway
) -> None:
    """Print the JSON Schema (2020-12) of a document, or an object of all three.

    Example: energy-cloud schema show energy > energy.json
    """
    from energy_cloud_dagster.domain import documents

    _known(kind, documents.KINDS)
    print(documents.as_text(documents.schemas() if kind is None else documents.schema(kind)), end="")


@app.command()
def example(
    kind: Annotated[str, typer.Argument(help="energy, energy-phase-1, vpp or meter.")] = "energy",
    as_json: AsJson = False,  # noqa: ARG001  a document is JSON anyway
) -> None:
    """Print a conforming document.

    Example: energy-cloud schema example meter
    """
    from energy_cloud_dagster.domain import documents

    _known(kind, documents.EXAMPLE_KINDS)
    print(documents.as_text(documents.example(kind)), end="")


@app.command()
def validate(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A JSON document; - reads standard input.")],
    kind: Annotated[
        str | None, typer.Option(help="energy, vpp or meter; by default what the document shows itself to be.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Say whether a file is a conforming document; every fault with its JSON path. Exit status 1 where there is any.

    Example: energy-cloud schema validate reading.json --json
    """
    from energy_cloud_dagster.domain import documents

    _known(kind, documents.KINDS)
    data = _read(file)
    faults = documents.validate(data, kind)
    found = kind or documents.kind_of(data)
    if as_json:
        listed = [{"path": path, "message": message} for path, message in faults]
        print(json.dumps({"valid": not faults, "kind": found, "faults": listed}, indent=2, ensure_ascii=False))
    elif faults:
        for path, message in faults:
            print(f"{file}: {path}: {message}")
    else:
        print(f"{file}: conforms, a WIA-ENE-014 {found} document")
    if faults:
        raise typer.Exit(1)


def _known(kind: str | None, kinds: tuple[str, ...]) -> None:
    if kind is not None and kind not in kinds:
        raise typer.BadParameter(f"{kind!r} is none of {', '.join(kinds)}")


def _read(file: Path) -> Any:
    try:
        text = sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
        return json.loads(text.decode("utf-8-sig"))
    except OSError as error:
        _fail(f"{file}: cannot be read ({error.strerror}); give the path of a JSON file")
    except UnicodeDecodeError:
        _fail(f"{file}: is not UTF-8 text; give a JSON file")
    except (ValueError, RecursionError) as error:
        _fail(f"{file}: is not JSON ({error})")


def _fail(message: str) -> NoReturn:
    typer.echo(f"energy-cloud: {message}", err=True)
    raise typer.Exit(1)
