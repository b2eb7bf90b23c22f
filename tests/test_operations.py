"""docs/operations.md says what there is: every metric, every alert of the gateway's own, commands that exist."""

from __future__ import annotations

import ast
import re
import shlex
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_node.assembly import assemble
from edge_node.cli import parser
from edge_node.config import load_config
from edge_node.sizing import said
from models.topics import GatewayTopics
from tests.brokers import broker, free_port, wait_for
from tests.edge_node.daemons import config, connected, running

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "operations.md").read_text()
SOURCES = sorted((ROOT / "edge_node").rglob("*.py"))
SUFFIXES = {"counter": "_total", "gauge": "", "summary": ""}


def rows(heading: str) -> list[list[str]]:
    """The cells of the table below ``heading``."""
    section = PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")][2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def named(call: ast.Call, position: int, keyword: str) -> ast.expr | None:
    """An argument of ``call``."""
    if len(call.args) > position:
        return call.args[position]
    return next((k.value for k in call.keywords if k.arg == keyword), None)


def calls(node: ast.AST, name: str) -> Iterator[ast.Call]:
    for found in ast.walk(node):
        if isinstance(found, ast.Call) and isinstance(found.func, ast.Name) and found.func.id == name:
            yield found


def constant(node: ast.expr | None) -> str | None:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None


def exported(file: Path) -> Iterator[str]:
    """Names of the metrics that ``file`` makes, by Family or by functions of its own that return one."""
    tree = ast.parse(file.read_text())
    makers = {"Family": None}
    for function in tree.body:
        if (
            isinstance(function, ast.FunctionDef)
            and isinstance(function.returns, ast.Name)
            and function.returns.id == "Family"
        ):
            makers[function.name] = constant(named(next(calls(function, "Family")), 2, "kind"))
    for maker, kind in makers.items():
        for call in calls(tree, maker):
            name = constant(named(call, 0, "name"))
            if name is None:
                assert isinstance(named(call, 0, "name"), ast.Name), f"{file}:{call.lineno}"
                continue  # in a maker
            own = kind or constant(named(call, 2, "kind"))
            assert own is not None, f"{file}:{call.lineno}"
            yield f"linewatch_{name}{SUFFIXES[own]}"


def subjects(file: Path) -> Iterator[str]:
    """Subjects of the troubles that ``file`` makes, up to the name of the one that has it."""
    for call in calls(ast.parse(file.read_text()), "Trouble"):
        subject = named(call, 0, "subject")
        if isinstance(subject, ast.JoinedStr):
            subject = subject.values[0]  # type: ignore[assignment]
        text = constant(subject)
        assert text, f"{file}:{call.lineno}: a subject must begin with a word that can be looked up"
        yield text.partition("/")[0]


def documented_metrics() -> list[str]:
    return [cells[0].strip("`") for cells in rows("Metrics")]


def test_every_metric_is_documented_and_every_documented_one_exists() -> None:
    found = {name for file in SOURCES for name in exported(file)}
    assert len(found) > 40
    assert found - set(documented_metrics()) == set()
    assert set(documented_metrics()) - found == set()
    assert len(documented_metrics()) == len(set(documented_metrics()))


def test_a_running_gateway_exports_no_other(tmp_path: Path) -> None:
    with broker(tmp_path) as mosquitto:
        port = free_port()
        path = config(tmp_path, mosquitto.port, port)
        with running(path, "--record", str(tmp_path / "log.jsonl")):
            wait_for(lambda: connected(port), "the source's connection")
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as reply:
                text = reply.read().decode()
    found = set(re.findall(r"^# TYPE (linewatch_\w+) ", text, re.M))
    assert len(found) > 40
    assert found - set(documented_metrics()) == set()


def test_every_alert_of_the_gateway_itself_has_a_remedy() -> None:
    found = {subject for file in SOURCES for subject in subjects(file)}
    table = rows("Alerts of the gateway itself")
    assert {cells[0].strip("`") for cells in table} == found
    assert all(len(cells) == 3 and all(cells) for cells in table)


def commands() -> list[str]:
    lines = [line for block in re.findall(r"```sh\n(.*?)```", PAGE, re.S) for line in block.splitlines()]
    lines += [text for text in re.findall(r"`([^`\n]+)`", PAGE) if text.startswith("edge-node ")]
    found = []
    for line in lines:
        if "edge-node " not in line:
            continue
        words = shlex.split(line.split("#")[0])
        at = [i for i, word in enumerate(words) if Path(word).name == "edge-node"]
        if at and len(words) > at[0] + 1:
            found.append(shlex.join(words[at[0] + 1 :]))
    return sorted(set(found))


@pytest.mark.parametrize("command", commands())
def test_commands_are_such_as_the_program_takes(command: str) -> None:
    words = shlex.split(command)
    if "-c" not in words and words[0] in ("doctor", "check", "plan"):
        words += ["-c", "gateway.toml"]  # named in passing
    given = parser().parse_args(words)
    assert callable(given.act)


def test_files_that_are_to_be_copied_are_there() -> None:
    copied = re.findall(r"(?:cp|copy) `?((?:systemd|udev)/[\w./-]+)", PAGE)
    assert len(copied) == 4
    for file in copied:
        assert (ROOT / "packaging" / file).exists(), file


def test_the_formula_for_a_summary_is_about_right(tmp_path: Path) -> None:
    (plan,) = assemble(load_config(config(tmp_path, 1)), on_notice=print).plans
    (message,) = [
        s.message for s in said(plan, GatewayTopics("linewatch", "s1", "g1"), None) if s.kind == "summary"
    ]
    assert plan.model is not None
    k = len(plan.model.infos)
    assert "900 + 20 × (k² / 2 + 5 k) + 5.4 × k × `n_reservoir`" in PAGE
    formula = 900 + 20 * (k**2 / 2 + 5 * k) + 5.4 * k * plan.n_reservoir
    assert message.n_bytes == pytest.approx(formula, rel=0.15)
