"""The page's files: all in the package, none from elsewhere, and what is not ours as its makers published it."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import get_args

import pytest

from edge_node.web.assets import load_assets
from models.messages import AlertKind, Severity
from models.signal import DeviceCondition, DropReason

ROOT = Path(__file__).parents[2]
STATIC = ROOT / "edge_node" / "web" / "static"
VENDOR = STATIC / "vendor"
OURS = [path for path in STATIC.iterdir() if path.is_file()]


def test_every_file_is_served_as_what_it_is() -> None:
    assets = load_assets()
    files = {f"/{path.relative_to(STATIC)}" for path in STATIC.rglob("*") if path.is_file()}
    assert set(assets) == files - {"/index.html", "/vendor/README.md"} | {"/"}
    assert assets["/app.js"].kind == assets["/vendor/preact.mjs"].kind == "text/javascript; charset=utf-8"
    assert len({asset.etag for asset in assets.values()}) == len(assets)
    assert sum(len(a.body) for a in assets.values()) < 250_000, "small enough for a slow link"


def test_what_is_not_ours_is_as_its_makers_published_it() -> None:
    listed = dict(
        re.findall(r"^\| `([^`]+)` \|.*`([0-9a-f]{64})` \|$", (VENDOR / "README.md").read_text(), re.M)
    )
    files = {path.name: path for path in VENDOR.iterdir() if path.suffix != ".md" and path.suffix != ".txt"}
    assert listed.keys() == files.keys()
    for name, path in files.items():
        assert hashlib.sha256(path.read_bytes()).hexdigest() == listed[name], name
    notice = (ROOT / "NOTICE").read_text()
    for name, version, licence in re.findall(
        r"^\| `[^`]+` \| (\w+) \([^)]*\) \| (\S+) \| \S+, `([^`]+)`", (VENDOR / "README.md").read_text(), re.M
    ):
        assert re.search(rf"{name} {re.escape(version)}", notice, re.I), name
        assert (VENDOR / licence).read_text().strip()


@pytest.mark.parametrize("path", OURS, ids=lambda path: path.name)
def test_no_file_of_ours_names_another_server_or_needs_an_inline_script(path: Path) -> None:
    text = path.read_text()
    assert (
        re.findall(r"(?:https?:)?//[a-z0-9-]+\.[a-z]+", text.replace("http://www.w3.org/2000/svg", "")) == []
    )
    assert "innerHTML" not in text
    assert "eval(" not in text
    if path.suffix == ".html":
        assert re.findall(r"<script(?![^>]*\bsrc=)", text) == []
        assert re.findall(r"\s(?:on\w+|style)=", text) == []


def test_what_is_imported_is_there() -> None:
    for path in STATIC.glob("*.js"):
        for name in re.findall(r'from "\./([^"]+)"', path.read_text()):
            assert (STATIC / name).is_file(), f"{path.name}: {name}"


def test_the_page_has_a_word_for_all_that_it_is_told() -> None:
    text = (STATIC / "format.js").read_text()

    def keys(table: str) -> set[str]:
        found = re.search(rf"export const {table} = {{\n(.*?)\n}};", text, re.S)
        assert found is not None
        return set(re.findall(r"^  (\w+):", found[1], re.M))

    assert keys("STATES") == {state.value for state in DeviceCondition}
    assert keys("SEVERITIES") == set(get_args(Severity))
    assert keys("KINDS") == set(get_args(AlertKind))
    assert keys("REASONS") == {reason.value for reason in DropReason}


def test_a_wheel_has_them_all(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for package in ("models", "edge_node", "cloud_sink", "firmware_bridge"):
        shutil.copytree(ROOT / package, source / package, ignore=shutil.ignore_patterns("__pycache__"))
    for folder in ("examples", "packaging"):
        shutil.copytree(ROOT / folder, source / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE", "NOTICE"):
        shutil.copy(ROOT / name, source)
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--quiet"]
    subprocess.run([*command, "-w", tmp_path, source], check=True, timeout=100)
    (wheel,) = tmp_path.glob("linewatch-*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    for path in STATIC.rglob("*"):
        if path.is_file():
            assert f"edge_node/web/static/{path.relative_to(STATIC)}" in names
    assert any(name.endswith("licenses/NOTICE") for name in names)
