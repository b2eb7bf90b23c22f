"""Devices share an engine exactly when they share a bundle."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np

from edge_node.assembly import assemble
from edge_node.config import load_config
from models.signal import SampleBlock
from tests.edge_node.daemons import BUNDLE


def test_two_bundles_of_one_name_do_not_share_an_engine_and_one_bundle_does(tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(BUNDLE, other)
    manifest = json.loads((other / "manifest.json").read_text())
    manifest["created_ns"] += 1
    (other / "manifest.json").write_text(json.dumps(manifest))
    channels = ", ".join(
        "{ " + ", ".join(f"{k} = {json.dumps(c[k])}" for k in ("name", "unit", "origin")) + " }"
        for c in manifest["channels"]
    )
    device = '[[device]]\nid = "{}"\ninterval_s = 1\nchannels = [{}]\nmodel = "{}"\n'
    path = tmp_path / "gateway.toml"
    path.write_text(
        '[gateway]\nname = "g"\n'
        + "".join(
            device.format(name, channels, where)
            for name, where in (("a", BUNDLE), ("b", other), ("c", BUNDLE))
        )
    )
    core = assemble(load_config(path), on_notice=lambda text: None)
    a, b, c = (plan.engine for plan in core.plans)
    assert a == c
    assert a != b
    assert set(core.engines) == {a, b}


def test_an_empty_block_of_an_unknown_device_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "gateway.toml"
    path.write_text(
        '[gateway]\nname = "g"\n[[device]]\nid = "a"\ninterval_s = 1\nchannels = ["x"]\nmodel = "none"\n'
    )
    core = assemble(load_config(path), on_notice=lambda text: None)
    empty = np.zeros((0, 1), np.float32)
    block = SampleBlock.irregular("b", ("x",), empty, time_ns=np.zeros(0, np.int64), arrival_ns=0)
    assert core.push(block) == 0
