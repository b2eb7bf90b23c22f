"""What is kept of models on disk is whole, or was never there."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from edge_node.model_record import Kept, Record
from edge_node.model_shelf import MAX_DAMAGED, Shelf, folder_name
from edge_node.model_store import Bundle, read_bundle
from models.manifest import digest
from tests.edge_node.versions import KEY, good, signed, written


def bundle(folder: Path, version: int) -> Bundle:
    return read_bundle(written(folder / f"b{version}", signed(good(version))), (KEY.public_key(),))


def kept(b: Bundle) -> Kept:
    return Kept(version=b.manifest.version, digest=digest(b.manifest))


def test_what_is_kept_can_be_read_and_the_rest_is_deleted(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path, "fixture")
    assert shelf.load() == Record()
    one, two, three = (bundle(tmp_path, n) for n in (1, 2, 3))
    shelf.keep(Record(current=kept(one)), one)
    shelf.keep(Record(current=kept(two), before=kept(one)), two)
    record = Record(current=kept(three), before=kept(two), floor=3)
    shelf.keep(record, three)
    again = Shelf(tmp_path, "fixture")
    assert again.load() == record
    place = again.place(kept(three))
    assert place is not None
    assert read_bundle(place, (KEY.public_key(),), require_signature=True).artifacts == three.artifacts
    names = sorted(path.name for path in (tmp_path / "models" / "fixture").iterdir())
    assert names == sorted(["record.json", place.name, f"v2-{kept(two).digest[:16]}"])


def test_a_crash_at_any_write_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk fails at each step in turn."""
    one, two = bundle(tmp_path, 1), bundle(tmp_path, 2)
    shelf = Shelf(tmp_path, "fixture")
    before = Record(current=kept(one))
    shelf.keep(before, one)
    real, left = os.fsync, 0

    def fsync(descriptor: int) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor)

    monkeypatch.setattr("os.fsync", fsync)
    n_steps = 0
    while True:
        left = n_steps
        try:
            shelf.keep(Record(current=kept(two), before=kept(one)), two)
            break
        except OSError:
            n_steps += 1
            left = 1_000
        found = Shelf(tmp_path, "fixture").load()
        place = shelf.place(found.current or kept(one))
        assert place is not None
        whole = read_bundle(place, (KEY.public_key(),), require_signature=True)
        assert digest(whole.manifest) == (found.current or kept(one)).digest
        assert not list((tmp_path / "models" / "fixture").glob(".new-*"))
    assert n_steps >= 6  # graphs, manifest, folders, record
    assert Shelf(tmp_path, "fixture").load().current == kept(two)


def test_what_is_damaged_is_set_aside_and_not_for_ever(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path, "fixture")
    one = bundle(tmp_path, 1)
    for i in range(MAX_DAMAGED + 3):
        shelf.keep(Record(current=kept(one), floor=i), one)
        shelf.set_aside(kept(one), "a test says so")
    shelf.keep(Record(current=kept(one)), one)
    assert len(list((tmp_path / "models" / "fixture").glob("damaged-*"))) == MAX_DAMAGED
    place = shelf.place(kept(one))
    assert place is not None
    assert place.exists()


def test_what_is_there_already_is_not_written_again_unless_it_is_damaged(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path, "fixture")
    one = bundle(tmp_path, 1)
    shelf.keep(Record(current=kept(one)), one)
    place = shelf.place(kept(one))
    assert place is not None
    inode = place.stat().st_ino
    shelf.keep(Record(current=kept(one), floor=1), one)
    assert place.stat().st_ino == inode
    next(place.glob("*.tflite")).write_bytes(b"")
    shelf.keep(Record(current=kept(one), floor=2), one)
    assert read_bundle(place).artifacts == one.artifacts


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b'{"current": 1}', b"\xff"])
def test_a_record_that_is_none(tmp_path: Path, data: bytes) -> None:
    folder = tmp_path / "models" / "fixture"
    folder.mkdir(parents=True)
    (folder / "record.json").write_bytes(data)
    assert Shelf(tmp_path, "fixture").load() == Record()
    assert [path.name for path in folder.iterdir()] == ["damaged-0-record.json"]


def test_a_model_may_have_any_name(tmp_path: Path) -> None:
    assert folder_name("press-4_v2.1") == "press-4_v2.1"
    for name in ("..", ".", "", "../../etc", "a/b", "Presse Ä", "x" * 200, "-o"):
        folder = folder_name(name)
        assert folder.startswith("_")
        assert (tmp_path / folder).parent == tmp_path
    assert folder_name("a/b") != folder_name("a:b")


def test_nowhere_to_keep_it() -> None:
    shelf = Shelf(None, "fixture")
    shelf.keep(Record(floor=3), None)
    assert shelf.load() == Record()
    assert shelf.place(Kept(version=1, digest="0" * 64)) is None


def test_only_its_owner_reads_it(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        Shelf(tmp_path, "fixture").keep(Record(), None)
    finally:
        os.umask(old)
    path: Any = tmp_path / "models" / "fixture"
    assert path.stat().st_mode & 0o777 == 0o700
