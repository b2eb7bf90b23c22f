"""The rules of who may import what have no holes: each of these imports would be reported."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("models", "edge_node", "cloud_sink", "firmware_bridge")
RULES = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]

VIOLATIONS = [
    ("models.windowing", "datetime"),
    ("models.features", "random"),
    ("models.scoring", "models.text_files"),
    ("models.calibration", "models.tables"),
    ("models.episodes", "models.logs"),
    ("models.logs", "tflite_runtime"),
    ("models.tflite_check", "ai_edge_litert"),
    ("models.recording", "sklearn"),
    ("models.signal", "edge_node"),
    ("edge_node.ticks", "time"),
    ("edge_node.replay_advice", "time"),
    ("edge_node.replay_report", "sys"),
    ("edge_node.pipeline", "models.recording"),
    ("edge_node.lane", "pathlib"),
    ("edge_node.inference", "tflite_runtime"),
    ("edge_node.summary", "cloud_sink"),
    ("cloud_sink.train", "os"),
]


def report(tree: Path) -> subprocess.CompletedProcess[str]:
    program = "from importlinter.cli import lint_imports_command as run; run(['--no-cache'])"
    return subprocess.run(
        [sys.executable, "-c", program], cwd=tree, capture_output=True, text=True, timeout=60
    )


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for package in PACKAGES:
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def file_of(module: str) -> Path:
    return Path(*module.split(".")).with_suffix(".py")


def test_what_is_here_keeps_the_rules(tree: Path) -> None:
    done = report(tree)
    assert done.returncode == 0, done.stdout
    assert f"Contracts: {len(RULES)} kept, 0 broken." in done.stdout


def test_every_import_that_is_against_the_rules_is_reported(tree: Path) -> None:
    for module, imported in VIOLATIONS:
        with (tree / file_of(module)).open("a") as file:
            file.write(f"\nimport {imported}\n")
    done = report(tree)
    assert done.returncode != 0
    told = set(re.findall(r"(\S+) is not allowed to import (\S+):", done.stdout))
    told |= set(re.findall(r"^ *-? *(\S+) -> (\S+) \(l\.", done.stdout, re.M))
    assert set(VIOLATIONS) - told == set()


def test_a_module_that_calls_itself_pure_is_held_to_it() -> None:
    listed = set(next(r for r in RULES if "pure modules" in r["name"])["source_modules"])
    files = [file for package in PACKAGES for file in (ROOT / package).rglob("*.py")]
    pure = {
        ".".join(file.relative_to(ROOT).with_suffix("").parts)
        for file in files
        if re.search(r"\bpure\b", ast.get_docstring(ast.parse(file.read_text())) or "", re.I)
    }
    assert len(pure) > 30
    assert pure - listed == set()
