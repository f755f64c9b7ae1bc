from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from energy_cloud_dagster.cli.schema import app
from energy_cloud_dagster.domain import documents

RUN = CliRunner()


@pytest.mark.parametrize("kind", documents.KINDS)
def test_show_prints_the_schema(kind: str) -> None:
    answer = RUN.invoke(app, ["show", kind])
    assert answer.exit_code == 0
    assert json.loads(answer.stdout) == documents.schema(kind)


def test_show_without_a_kind_prints_all() -> None:
    assert json.loads(RUN.invoke(app, ["show", "--json"]).stdout) == documents.schemas()


@pytest.mark.parametrize("kind", documents.EXAMPLE_KINDS)
def test_an_example_conforms(kind: str, tmp_path: Path) -> None:
    text = RUN.invoke(app, ["example", kind]).stdout
    file = tmp_path / "document.json"
    file.write_text(text, encoding="utf-8")
    answer = RUN.invoke(app, ["validate", str(file)])
    assert answer.exit_code == 0
    assert "conforms" in answer.stdout
    assert RUN.invoke(app, ["validate", "-"], input=text).exit_code == 0
    assert json.loads(RUN.invoke(app, ["validate", str(file), "--json"]).stdout) == {
        "valid": True,
        "kind": kind.partition("-")[0],
        "faults": [],
    }


def test_every_fault_has_its_path(tmp_path: Path) -> None:
    document = documents.example("meter")
    document["readings"][1]["unit"] = "furlong"
    del document["meterId"]
    file = tmp_path / "faulty.json"
    file.write_text("\ufeff" + json.dumps(document), encoding="utf-8")
    answer = RUN.invoke(app, ["validate", str(file)])
    assert answer.exit_code == 1
    assert "$.meterId: Field required" in answer.stdout
    assert "$.readings[1].unit: Input should be 'W'" in answer.stdout
    verdict = json.loads(RUN.invoke(app, ["validate", str(file), "--json"]).stdout)
    assert (verdict["valid"], verdict["kind"]) == (False, "meter")
    assert [fault["path"] for fault in verdict["faults"]] == ["$.meterId", "$.readings[1].unit"]


@pytest.mark.parametrize(
    ("content", "part"),
    [(b"{", "is not JSON"), (b"\xff\xfe", "is not UTF-8"), (b"[" * 200_000, "is not JSON"), (None, "cannot be read")],
)
def test_a_file_that_cannot_be_read_is_one_sentence(tmp_path: Path, content: bytes | None, part: str) -> None:
    file = tmp_path / "broken.json"
    if content is not None:
        file.write_bytes(content)
    answer = RUN.invoke(app, ["validate", str(file)])
    assert answer.exit_code == 1
    assert part in answer.stderr
    assert answer.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "words", [["show", "poem"], ["example", "poem"], ["validate", "x", "--kind", "poem"], ["what"]]
)
def test_a_wrong_word_is_a_usage_error(words: list[str]) -> None:
    answer = RUN.invoke(app, words)
    assert answer.exit_code == 2
    assert answer.stderr
