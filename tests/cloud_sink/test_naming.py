"""Two sites may each have a gateway of one name: what is meant for one reaches it alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from cloud_sink.cli import main
from cloud_sink.config import load_config
from cloud_sink.events import Batch, EventStore
from cloud_sink.naming import canaries_of, full_names, known_gateways
from cloud_sink.summaries import SummaryTable
from models.cli_values import UsageError
from tests.cloud_sink.gateways import status, summary
from tests.cloud_sink.sinks import config
from tests.edge_node.versions import good, signed, written

KNOWN = {"s1/g1", "s2/g1", "s1/hall-3"}


def test_a_name_is_that_of_one_gateway() -> None:
    assert full_names("--canary", ["hall-3", "s2/g1", "s1/hall-3"], KNOWN) == ("s1/hall-3", "s2/g1")
    assert full_names("--canary", ["new/x"], ()) == ("new/x",)
    with pytest.raises(UsageError, match="--canary g1: there are s1/g1 and s2/g1: say which"):
        full_names("--canary", ["g1"], KNOWN)
    with pytest.raises(UsageError, match=r'--gateway hall-4: .*did you mean "s1/hall-3"'):
        full_names("--gateway", ["hall-4"], KNOWN)


def test_whoever_has_said_anything_is_known(tmp_path: Path) -> None:
    loaded = load_config(config(tmp_path, 1))
    store = EventStore(loaded.store.events)
    store.create()
    said = SummaryTable.of([summary(1, gateway="g2", site="s2")])
    store.commit(Batch(1, statuses=[status("g1")], summaries=[said]))
    assert known_gateways(store) == {"s1/g1", "s2/g2"}
    store.close()
    assert canaries_of(["g2", "s9/g1", "s2/g2"], loaded) == ("s2/g2", "s9/g1")


def test_without_a_database_a_full_name_will_do(tmp_path: Path) -> None:
    loaded = load_config(config(tmp_path, 1, store='events = "sqlite:////nowhere/at/all.db"'))
    assert canaries_of(["s1/g1"], loaded) == ("s1/g1",)
    with pytest.raises(UsageError, match="write SITE/GATEWAY, for nobody can be asked whose it is"):
        canaries_of(["g1"], loaded)


@pytest.mark.parametrize("command", ["publish", "withdraw", "rollout"])
def test_commands_ask_which_is_meant(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    path = config(tmp_path, 1)
    store = EventStore(load_config(path).store.events)
    store.create()
    store.commit(Batch(1, statuses=[status("g1"), status("g1", site="s2")]))
    store.close()
    bundle = written(tmp_path / "b", signed(good(2)))
    what = "fixture" if command == "withdraw" else str(bundle)
    assert main([command, "-c", str(path), what, "--canary", "g1"]) == 2
    assert "--canary g1: there are s1/g1 and s2/g1: say which" in capsys.readouterr().err
