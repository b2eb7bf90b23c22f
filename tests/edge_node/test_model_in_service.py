"""What commands say of the version that serves where another one was adopted than the configuration names."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from edge_node.assembly import assemble
from edge_node.cli import main
from edge_node.config import Config, load_config
from edge_node.doctor import software
from edge_node.model_in_service import InService, in_service
from edge_node.model_record import Kept, Record
from edge_node.model_shelf import Shelf
from edge_node.model_store import read_bundle
from models.manifest import digest
from models.refusals import RefusalReason
from tests.edge_node.daemons import config
from tests.edge_node.versions import KEY, PUBLIC, good, signed, written

CONFIGURED = 2


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The configuration of a gateway that takes signed models, and was told to begin with CONFIGURED."""
    bundle = written(tmp_path / "configured", signed(good(CONFIGURED)))
    return config(tmp_path, 1, bundle=bundle, gateway=f'[models]\ntrusted_keys = ["{PUBLIC}"]')


def adopted(path: Path, *versions: int, banned: int | None = None) -> Shelf:
    """The gateway's shelf once it has adopted ``versions``, one after the other."""
    shelf = Shelf(path.with_name("gateway-state"), "fixture")
    record = Record() if banned is None else Record(banned={banned: RefusalReason.TAKEN_BACK})
    for version in versions:
        bundle = read_bundle(written(path.parent / f"v{version}", signed(good(version))), (KEY.public_key(),))
        kept = Kept(version=version, digest=digest(bundle.manifest))
        record = msgspec.structs.replace(record, current=kept, before=record.current)
        shelf.keep(record, bundle)
    return shelf


def seen(path: Path) -> tuple[Config, InService | None]:
    loaded = load_config(path)
    return loaded, in_service(loaded, assemble(loaded, on_notice=print)).get("fixture")


def files(path: Path) -> dict[Path, bytes]:
    return {p: p.read_bytes() for p in path.with_name("gateway-state").rglob("*") if p.is_file()}


def test_what_was_adopted_serves(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert seen(path)[1] is None
    adopted(path, 3, 4)
    loaded, found = seen(path)
    assert found == InService(model_id="fixture", configured=2, version=4)
    told = "fixture v4, adopted here, serves in place of v2 of the configuration"
    core, loads = software.assembled(loaded)
    assert core is not None
    serves = list(software.in_service(loaded, core))
    assert [(f.level, f.text) for f in serves] == [("ok", told)]
    assert loads[0].text.startswith("fixture v2 for 1 device")
    assert main(["check", "-c", str(path)]) == 0
    assert told in capsys.readouterr().out.splitlines()
    assert main(["plan", "-c", str(path)]) == 0
    assert f"{told}; sizes and times are those of v2\n" in capsys.readouterr().out
    assert main(["plan", "-c", str(path), "--json"]) == 0
    (task,) = json.loads(capsys.readouterr().out)["placement"]
    assert (task["version"], task["in_service"]["version"]) == (2, 4)


@pytest.mark.parametrize(
    ("versions", "banned", "serves"), [((1,), None, 2), ((2,), None, 2), ((1,), 2, 1), ((3,), 2, 3)]
)
def test_the_version_of_the_configuration_serves_unless_it_is_older_or_was_taken_back(
    path: Path, versions: tuple[int, ...], banned: int | None, serves: int
) -> None:
    adopted(path, *versions, banned=banned)
    _, found = seen(path)
    assert (CONFIGURED if found is None else found.version) == serves


def test_a_gateway_without_a_key_has_adopted_nothing(path: Path) -> None:
    adopted(path, 4)
    path.write_text(path.read_text().replace(f'["{PUBLIC}"]', "[]"))
    assert seen(path)[1] is None


def test_what_is_damaged_is_told_and_left_for_the_gateway(path: Path) -> None:
    shelf = adopted(path, 3, 4)
    kept = shelf.load().current
    assert kept is not None
    place = shelf.place(kept)
    assert place is not None
    graph = next(place.glob("*.tflite"))
    graph.write_bytes(graph.read_bytes()[:-1])
    before = files(path)
    loaded, found = seen(path)
    assert found is not None
    assert (found.version, files(path)) == (3, before)
    assert found.text.startswith(
        "fixture v3, adopted here, serves in place of v2 of the configuration; v4, which was"
    )
    assert shelf.record_file is not None
    shelf.record_file.write_bytes(b"{")
    before = files(path)
    loaded, found = seen(path)
    assert found is not None
    assert (found.version, files(path)) == (CONFIGURED, before)
    assert f"what was adopted cannot be read ({shelf.record_file}: " in found.text
    (told,) = software.in_service(loaded, assemble(loaded, on_notice=print))
    assert (told.level, told.text) == ("warn", found.text)
    assert "publish that version again" in told.remedy
