"""`energy-cloud up`: everything, and it stays."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from functools import partial
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Final

import typer
from rich.console import Console

from energy_cloud_dagster.cli.console import Stages, plain_console
from energy_cloud_dagster.domain.intervals import hour_start

if TYPE_CHECKING:
    from energy_cloud_dagster.embedded.supervise import Child
    from energy_cloud_dagster.settings import Settings

#: Hours before the first start that the schedules work through, so that there is something to see at once.
_BACKLOG: Final = timedelta(hours=12)
_READY_SECONDS: Final = 180.0


def up(
    port_base: Annotated[
        int | None, typer.Option(min=1024, max=65000, help="API on this port, Dagster, MQTT and chain on the next.")
    ] = None,
) -> None:
    """Start everything and stay: parts, ingest, simulated fleet, Dagster with schedules and sensors, API.

    Prints READY on a line of its own when all of it answers. Ctrl-C stops all; started again it goes on where it was.

    Example: energy-cloud up --port-base 9000
    """
    from energy_cloud_dagster.cli import bringup, logs, report
    from energy_cloud_dagster.settings import load_settings

    given = load_settings(
        automation="running", simulate_resources=True, **({"port_base": port_base} if port_base else {})
    )
    logs.configure(given, quiet=True)
    console = plain_console()
    with bringup.running(given) as (settings, parts):
        report.banner(console, parts.running)
        stay(settings, console)


def stay(settings: Settings, console: Console) -> None:
    """Run all processes on ``settings`` until SIGINT or SIGTERM; one that ends is started again."""
    from energy_cloud_dagster.adapters import registry
    from energy_cloud_dagster.adapters.database import make_engine
    from energy_cloud_dagster.cli import attached, bringup, pipeline, report

    interruption = _Interruption()
    _on_signals(interruption)
    sys.unraisablehook = interruption.dropped
    now = datetime.now(UTC)
    passwords = bringup.prepare(settings, now)
    report.credentials(console, passwords)
    engine = make_engine(settings.database_url.get_secret_value(), pool_size=1)
    with engine.begin() as connection:
        since = registry.operating_since(connection, settings.region)
    begun, since = since is not None, since or hour_start(now)
    first = since if begun else since - _BACKLOG
    plant_port = bringup.plant_port(settings)
    opcua = f"opc.tcp://127.0.0.1:{plant_port}/energy-cloud/"
    waves = _children(settings, plant_port, opcua, since)
    if not begun:
        _begin(settings, console, first, since, interruption)
        with engine.begin() as connection:
            registry.start_operating(connection, settings.region, first)
    engine.dispose()
    pipeline.end_orphans(settings)
    with ExitStack() as stack:
        remembered = attached.remember(settings)
        stack.callback(lambda: remembered.unlink(missing_ok=True))
        children = [child for wave in waves for child, _ in wave]
        stack.callback(_stop, children)
        for wave in waves:
            for child, _ in wave:
                child.start()
            for child, ready in wave:
                child.wait_until_ready(ready, timeout=_READY_SECONDS)
                interruption.check()
                console.print(f"[green]✓[/] {child.name} [dim]{child.log}[/]", soft_wrap=True)
        host = settings.bind_host
        console.print(f"API      http://{host}:{settings.port('api')}/docs", soft_wrap=True)
        console.print(f"Dagster  http://{host}:{settings.port('dagster')}", soft_wrap=True)
        console.print(f"Ticks    {settings.tick_cron} (UTC), hours from {first:%Y-%m-%d %H:%M} on", soft_wrap=True)
        report.credentials(console, passwords)
        stop = threading.Event()
        _on_signals(lambda *_: stop.set())
        console.print("READY")
        sys.stdout.flush()
        _watch(stop, settings, children, console)
        console.print("Stopping ...")


def _begin(settings: Settings, console: Console, first: datetime, since: datetime, interruption: _Interruption) -> None:
    """Load what was measured up to ``since``, validate it up to ``first``, and fit the first model."""
    from energy_cloud_dagster.cli import bringup, pipeline

    stages = Stages(console)
    with stages.stage("First start: load eight weeks of history", bringup.HISTORY.days) as progress:
        bringup.load_history(settings, first - bringup.HISTORY, since, interruption.checked(progress))
    with stages.stage("Validate it and build its marts"):
        pipeline.validate_history(first - bringup.HISTORY, first)
    interruption.check()
    with stages.stage("Judge and fit the load's models"), pipeline.instance() as instance:
        pipeline.fit_day(instance, (first - timedelta(days=1)).replace(hour=0))
    interruption.check()


def _children(
    settings: Settings, plant_port: int, opcua: str, since: datetime
) -> list[list[tuple[Child, Callable[[], bool]]]]:
    """Return the processes, each with what shows that it is ready, in waves: the second needs the code server.

    Raises Misconfigured, naming the variable, when one of their ports is taken.
    """
    from energy_cloud_dagster.cli import bringup
    from energy_cloud_dagster.embedded.claims import accepts, require_free_port

    api, ui, code = settings.port("api"), settings.port("dagster"), bringup.code_port(settings)
    workspace = bringup.write_workspace(settings, code)
    workers = [
        bringup.command("ingest", settings, log="ingest" if number == 1 else f"ingest-{number}")
        for number in range(1, settings.ingest_workers + 1)
    ]
    outbox = bringup.command("outbox", settings)
    fleet = bringup.command(
        "simulate", settings, "--plant-port", str(plant_port), "--since", f"{since:%Y-%m-%dT%H:%M:%SZ}"
    )
    scada = bringup.command("scada", settings, ENERGY_CLOUD_OPCUA_URL=opcua)
    serve = bringup.command("serve", settings, "--port", str(api))
    code_server = bringup.module(
        "dagster-code",
        settings,
        "dagster",
        "code-server",
        "start",
        "--host",
        "127.0.0.1",
        "--port",
        str(code),
        "-m",
        "energy_cloud_dagster.definitions",
    )
    webserver = bringup.module(
        "dagster-webserver",
        settings,
        "dagster_webserver",
        "-h",
        settings.bind_host,
        "-p",
        str(ui),
        "-w",
        str(workspace),
    )
    daemon = bringup.module("dagster-daemon", settings, "dagster._daemon", "run", "-w", str(workspace))
    for child, part, port, variable in (
        (serve, "The API", api, "ENERGY_CLOUD_API_PORT"),
        (webserver, "The Dagster UI", ui, "ENERGY_CLOUD_DAGSTER_PORT"),
        (fleet, "The simulated SCADA server", plant_port, None),
        (code_server, "Dagster's code server", code, None),
    ):
        child.end_predecessor()
        require_free_port(part, port, variable)
    return [
        [
            *((worker, partial(_said, worker, "ingest_ready")) for worker in workers),
            (outbox, partial(_said, outbox, "outbox_ready")),
            (fleet, partial(_said, fleet, "READY")),
            (scada, partial(_said, scada, "scada_ready")),
            (serve, lambda: accepts(api)),
            (code_server, lambda: accepts(code)),
        ],
        [
            (webserver, lambda: accepts(ui)),
            (daemon, lambda: "Instance is configured" in daemon.tail(80) or "SchedulerDaemon" in daemon.tail(80)),
        ],
    ]


def _said(child: Child, word: str) -> bool:
    return word in child.tail(50)


def _watch(stop: threading.Event, settings: Settings, children: list[Child], console: Console) -> None:
    """Wait for the signal; a process that ended is named and started again, more slowly each time."""
    from energy_cloud_dagster.cli import pipeline

    failures = dict.fromkeys((child.name for child in children), 0)
    while not stop.wait(1.0):
        for child in children:
            if child.alive:
                continue
            if child.name == "dagster-code":
                pipeline.end_orphans(settings)
            failures[child.name] += 1
            console.print(
                f"[yellow]{child.name} ended ({child.returncode}): {child.last_line()}; starting it again[/]",
                soft_wrap=True,
            )
            if stop.wait(min(2.0 ** failures[child.name], 60.0)):
                return
            child.start()


def _stop(children: list[Child]) -> None:
    """Stop all at once: one after the other, their graces would add up."""
    with ThreadPoolExecutor(len(children)) as pool:
        list(pool.map(lambda child: child.stop(), children))


def _on_signals(handler: Callable[[int, FrameType | None], None]) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, handler)


class _Interruption:
    """Raises KeyboardInterrupt where a signal finds the program, and again at the next ``check``.

    Python drops what a handler raises within a destructor or a callback of a C library, and prints its traceback:
    ``dropped``, as ``sys.unraisablehook``, does not.
    """

    def __init__(self) -> None:
        self._asked = False
        self._print_unraisable = sys.unraisablehook

    def __call__(self, _number: int, _frame: FrameType | None) -> None:
        self._asked = True
        raise KeyboardInterrupt

    def check(self) -> None:
        if self._asked:
            raise KeyboardInterrupt

    def dropped(self, unraisable: sys.UnraisableHookArgs) -> None:
        if not (self._asked and issubclass(unraisable.exc_type, KeyboardInterrupt)):
            self._print_unraisable(unraisable)

    def checked(self, progress: Callable[[int], None]) -> Callable[[int], None]:
        """Return ``progress`` with a check at each call."""

        def advance(done: int) -> None:
            self.check()
            progress(done)

        return advance
