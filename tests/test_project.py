"""What the project says of itself is true: its documents, its package data, its files."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from fnmatch import fnmatch
from pathlib import Path

import pytest
import typer
from typer.main import get_command

from energy_cloud_dagster.cli import app
from energy_cloud_dagster.settings import ENV_PREFIX, Settings

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
OPERATIONS = (ROOT / "docs" / "operations.md").read_text()
UV = shutil.which("uv", path=f"{os.environ.get('PATH', '')}{os.pathsep}{ROOT / '.uv' / 'bin'}")
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
#: What every installation needs besides code.
PACKAGE_DATA = (
    "energy_cloud_dagster/contracts/EnergyExchange.json",
    "energy_cloud_dagster/contracts/EnergyExchange.vy",
    "energy_cloud_dagster/domain/documents/schemas/energy.json",
    "energy_cloud_dagster/migrations/env.py",
    "energy_cloud_dagster/migrations/script.py.mako",
    "energy_cloud_dagster/migrations/versions/*.py",
    "energy_cloud_dagster/sample_data/*.csv.gz",
    "energy_cloud_dagster/sample_data/LICENSES.md",
    "energy_cloud_dagster/sample_data/SHA256SUMS",
    "energy_cloud_dagster/sample_data/tag_map.toml",
    "energy_cloud_dagster/_dbt/dbt_project.yml",
    "energy_cloud_dagster/_dbt/profiles.yml",
    "energy_cloud_dagster/_dbt/models/marts/*.sql",
    "energy_cloud_dagster/_dbt/macros/*.sql",
)


def tracked() -> list[Path]:
    if not (ROOT / ".git").exists():
        pytest.fail("the tests run in a checkout: the project's files are those that git knows")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True)
    return [ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


@pytest.mark.parametrize("name", sorted(Settings.model_fields))
def test_every_setting_is_documented_with_its_default(name: str) -> None:
    variable = f"{ENV_PREFIX}{name.upper()}"
    row = next((line for line in OPERATIONS.splitlines() if line.startswith(f"| `{variable}` |")), None)
    assert row is not None, f"docs/operations.md has no row for {variable}"
    default = Settings.model_fields[name].default
    plain = str(default.get_secret_value() if hasattr(default, "get_secret_value") else default)
    shown = plain.lower() if isinstance(default, bool) else plain
    without = {field: None for field in Settings.model_fields if field.endswith("_port") or field == "port_base"}
    port = name.removesuffix("_port")
    expected = str(Settings(**without).port(port)) if port != name else "" if default is None else shown  # type: ignore[arg-type]
    assert row.split("|")[2].strip().strip("`") == expected


def test_the_documents_name_no_other_variable() -> None:
    known = {f"{ENV_PREFIX}{name.upper()}" for name in Settings.model_fields}
    known |= {"ENERGY_CLOUD_TEST_NO_SKIPS", "ENERGY_CLOUD_CI_TOOLS", "ENERGY_CLOUD_FUZZ_CASES"}
    named = {name for path in DOCUMENTS for name in re.findall(r"ENERGY_CLOUD_[A-Z0-9_]+[A-Z0-9]", path.read_text())}
    assert named - known == set()


def commands(group: typer.core.TyperGroup, path: tuple[str, ...] = ()) -> dict[tuple[str, ...], str]:
    """Return every command below ``group`` with its help, by the words that call it."""
    found: dict[tuple[str, ...], str] = {}
    for name, command in group.commands.items():
        if isinstance(command, typer.core.TyperGroup):
            found |= commands(command, (*path, name))
        else:
            found[*path, name] = command.help or ""
    return found


def program() -> dict[tuple[str, ...], str]:
    group = get_command(app)
    assert isinstance(group, typer.core.TyperGroup)
    return commands(group)


def test_every_command_that_the_documents_name_exists() -> None:
    known = program()
    called = set()
    for path in DOCUMENTS:
        text = path.read_text().replace("\n", " ")
        for words in re.findall(r"energy-cloud ([a-z]+(?:[ |][a-z][a-z-]*)*)", text):
            first, *rest = words.split(" ")
            if (first,) in known:
                called.add((first,))
            else:  # a group: one or more of its commands follow, as in `user add|list|disable`
                assert rest, f"{path.name}: energy-cloud {words}"
                called |= {(first, name) for name in rest[0].split("|")}
    assert called - set(known) == set()
    assert {("demo",), ("up",), ("audit", "verify")} <= called


def test_every_command_shows_an_example() -> None:
    assert [words for words, text in program().items() if "Example: energy-cloud" not in text] == []


def test_help_is_printed_by_the_program_itself() -> None:
    shown = subprocess.run(
        [sys.executable, "-m", "energy_cloud_dagster.cli", "audit", "verify", "--help"],
        check=True,
        capture_output=True,
        text=True,
    )
    assert "energy-cloud audit verify trade" in shown.stdout


def test_every_make_target_that_the_documents_name_exists() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {
        name for path in DOCUMENTS for name in re.findall(r"(?:^|`|&& )make ([a-z]+)", path.read_text(), re.MULTILINE)
    }
    assert named <= targets
    assert {"setup", "check", "test", "demo", "up", "bench"} <= targets
    assert {"demo", "test"} <= named


def test_links_between_documents_lead_somewhere() -> None:
    broken = [
        f"{path.relative_to(ROOT)}: {target}"
        for path in DOCUMENTS
        for target in re.findall(r"\]\(([^)#]+)\)", path.read_text())
        if not target.startswith("http") and not (path.parent / target).exists()
    ]
    assert broken == []


def test_the_tour_names_every_asset_check_and_sensor() -> None:
    from dagster import AssetKey

    from energy_cloud_dagster.definitions import defs

    graph = defs.resolve_asset_graph()
    assets = {key.path[-1] for key in graph.get_all_asset_keys()}
    views = {name for name in assets if name.startswith(("stg_", "int_"))}
    checks = {
        key.name for key in graph.asset_check_keys if not key.asset_key.path[-1].startswith(("stg_", "int_", "fct_"))
    }
    started = {one.name for one in [*(defs.schedules or ()), *(defs.sensors or ())]}
    missing = {name for name in (assets - views) | checks | started if f"`{name}`" not in README}
    assert missing == set()
    rows = [line for line in README.splitlines() if line.startswith("| **")]
    misplaced = {
        name
        for name in assets - views
        if not any(f"**{graph.get(AssetKey(name)).group_name}**" in row and f"`{name}`" in row for row in rows)
    }
    assert misplaced == set()
    assert "`stg_…`, `int_…` (views)" in README


@pytest.mark.skipif(UV is None, reason="uv is neither on PATH nor in .uv/ (make setup)")
def test_the_wheel_holds_what_an_installation_needs(tmp_path: Path) -> None:
    copy = tmp_path / "project"
    for path in tracked():
        (copy / path.relative_to(ROOT)).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, copy / path.relative_to(ROOT))
    for left_by_hand in ("dbt/target/manifest.json", "dbt/logs/dbt.log"):
        (copy / left_by_hand).parent.mkdir(parents=True)
        (copy / left_by_hand).write_text("{}")
    build = [str(UV), "build", "--quiet", "--python", sys.executable, "--wheel", "--out-dir", tmp_path, copy]
    subprocess.run(build, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert [pattern for pattern in PACKAGE_DATA if not any(fnmatch(name, pattern) for name in names)] == []
    assert [name for name in names if re.search(r"_dbt/(target|logs)/|__pycache__", name)] == []
    assert wheel.stat().st_size < 5_000_000


def test_the_locked_dependencies_are_those_that_the_project_names() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    locked = tomllib.loads((ROOT / "uv.lock").read_text())["package"]
    own = next(one for one in locked if one["name"] == project["name"])
    named = {re.split(r"[\[<>=~!; ]", one, maxsplit=1)[0].lower() for one in project["dependencies"]}
    assert {one["name"] for one in own["dependencies"]} == named


def test_no_file_names_a_machine_or_a_person_path() -> None:
    paths = re.compile(rb"(?<![\w.$/}])/(?:root|home/\w+|Users/\w+|work|workspace)/[\w.-]")
    found = [
        f"{path.relative_to(ROOT)}: {match.group().decode()}"
        for path in tracked()
        if path.suffix not in {".gz", ".lock"} and path != Path(__file__)
        for match in [paths.search(path.read_bytes())]
        if match
    ]
    assert found == []


def test_large_files_are_not_tracked() -> None:
    assert [str(path) for path in tracked() if path.stat().st_size > 1_500_000] == []


def test_python_is_found_by_running_it(tmp_path: Path) -> None:
    """A shim that is on PATH and does not run is passed over; the interpreter behind a name is what is printed."""
    shims = tmp_path / "shims"
    shims.mkdir()
    for name in ("python3.12", "python3"):
        (shims / name).write_text("#!/bin/sh\necho 'command not found' >&2\nexit 127\n")
        (shims / name).chmod(0o755)
    (tmp_path / "versions" / "3.12.1" / "bin").mkdir(parents=True)
    (tmp_path / "versions" / "3.12.1" / "bin" / "python3").symlink_to(sys.executable)

    def find(path: str) -> str:
        environment = {"PATH": f"{path}:/usr/bin:/bin", "HOME": str(tmp_path / "empty")}
        script = [str(ROOT / "tools" / "find-python")]
        return subprocess.run(script, env=environment, check=True, capture_output=True, text=True).stdout.strip()

    assert find(str(shims)).endswith(("versions/3.12.1/bin/python3", "python3.12", "python3.13", "python3"))
    assert "shims" not in find(str(shims))
    assert find(str(Path(sys.executable).parent)) != ""
