"""The gateway's own directory: locked, and done without where it cannot be had."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from edge_node.config import load_config
from edge_node.state_dir import StateDir, StateInUse, state_dir_of

_CONFIG = '[gateway]\nname = "g"\n{}[[device]]\nid = "d"\nrate_hz = 1\nwindow = 4\nchannels = ["x"]\n'


def test_a_directory_serves_one_process_at_a_time(tmp_path: Path) -> None:
    first = StateDir(tmp_path / "state")
    with pytest.raises(StateInUse, match="state is in use by another gateway process"):
        StateDir(tmp_path / "state")
    first.close()
    StateDir(tmp_path / "state").close()


def test_what_cannot_be_had_is_said_and_done_without(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    state = StateDir(tmp_path / "file" / "state")
    assert state.path is None
    assert state.problem is not None
    assert "file/state cannot be written to" in state.problem
    state.close()


def test_nobody_else_may_look_in(tmp_path: Path) -> None:
    StateDir(tmp_path / "state").close()
    assert os.stat(tmp_path / "state").st_mode & 0o077 == 0


def test_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("STATE_DIRECTORY", raising=False)
    file = tmp_path / "hall.toml"
    file.write_text(_CONFIG.format(""))
    assert state_dir_of(load_config(file)) == tmp_path / "hall-state"
    monkeypatch.setenv("STATE_DIRECTORY", "/var/lib/a:/var/lib/b")
    assert state_dir_of(load_config(file)) == Path("/var/lib/a")
    file.write_text(_CONFIG.format('state_dir = "kept"\n'))
    assert state_dir_of(load_config(file)) == tmp_path / "kept"
