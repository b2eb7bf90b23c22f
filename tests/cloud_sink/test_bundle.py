"""A bundle that is replaced is at every instant the old one or the new one."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from cloud_sink.bundle import next_version, write_bundle
from models import manifest as manifests
from models.manifest import ModelManifest, artifact_file
from models.signal import ArtifactTarget
from tests.brokers import wait_for
from tests.fixtures.bundle_files import BUNDLE

N_VERSIONS = 60


def version(n: int) -> tuple[ModelManifest, dict[ArtifactTarget, bytes]]:
    """Version ``n`` of a model whose graphs are large, and other ones in each version."""
    old = manifests.decode((BUNDLE / "manifest.json").read_bytes())
    artifacts, graphs = [], {}
    for artifact in old.artifacts:
        graph = f"{artifact.target} {n}".encode() * 10_000
        sha256 = hashlib.sha256(graph).hexdigest()
        name = artifact_file(artifact.target, sha256)
        artifacts.append(msgspec.structs.replace(artifact, file=name, sha256=sha256, n_bytes=len(graph)))
        graphs[artifact.target] = graph
    return msgspec.structs.replace(old, version=n, artifacts=tuple(artifacts)), graphs


def read(path: Path) -> int:
    """The version of the whole bundle in ``path``, read as one that knows nothing of its writer does."""
    manifest = manifests.decode((path / "manifest.json").read_bytes())
    for artifact in manifest.artifacts:
        assert hashlib.sha256((path / artifact.file).read_bytes()).hexdigest() == artifact.sha256
    return manifest.version


class Reader:
    """Reads a bundle over and over."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.seen: list[int] = []
        self.failure: Exception | None = None

    def __enter__(self) -> Reader:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopped.is_set():
            try:
                self.seen.append(read(self._path))
            except (OSError, ValueError, AssertionError) as error:
                self.failure = error
                return

    def goes_on(self) -> bool:
        """Waits for the end of a reading, which may have been under way; False where it failed."""
        n = len(self.seen)
        wait_for(lambda: len(self.seen) > n or self.failure is not None, "another reading")
        return self.failure is None


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    write_bundle(tmp_path / "m", *version(1))
    yield tmp_path / "m"
    assert [p.name for p in tmp_path.iterdir()] == ["m"]


def test_a_reader_sees_a_whole_bundle_at_every_instant(path: Path) -> None:
    with Reader(path) as reader:
        for n in range(2, N_VERSIONS):
            write_bundle(path, *version(n))
            if not reader.goes_on():  # no reading may last over two replacements
                break
    assert reader.failure is None
    assert sorted(reader.seen) == reader.seen
    assert len(set(reader.seen)) > N_VERSIONS // 2
    assert read(path) == N_VERSIONS - 1


def test_the_files_of_the_version_before_stay_and_older_ones_go(path: Path) -> None:
    (path / "notes.txt").write_text("mine")
    (path / ".cpu-int8-0123456789ab.tflite.new").write_bytes(b"left by a kill")
    names = [{a.file for a in version(n)[0].artifacts} for n in (2, 3)]
    for n in (2, 3):
        write_bundle(path, *version(n))
    assert {p.name for p in path.iterdir()} == names[0] | names[1] | {"manifest.json", "notes.txt"}


def test_graphs_that_were_not_named_after_their_content_are_replaced(path: Path) -> None:
    old, graphs = version(1)
    plain = tuple(msgspec.structs.replace(a, file=f"{a.target}.tflite") for a in old.artifacts)
    for file in path.iterdir():
        file.unlink()
    for artifact in plain:
        (path / artifact.file).write_bytes(graphs[artifact.target])
    (path / "manifest.json").write_bytes(manifests.encode(msgspec.structs.replace(old, artifacts=plain)))
    assert next_version(path, old.model_id) == read(path) + 1 == 2
    for n in (2, 3):
        write_bundle(path, *version(n))
        assert read(path) == n
    assert not any((path / a.file).exists() for a in plain)
    with pytest.raises(ValueError, match="not named after its content"):
        write_bundle(path, msgspec.structs.replace(version(4)[0], artifacts=plain), graphs)
    assert read(path) == 3


def test_a_damaged_graph_is_mended_by_the_same_version(path: Path) -> None:
    manifest, graphs = version(1)
    (path / manifest.artifacts[0].file).write_bytes(b"damaged")
    write_bundle(path, manifest, graphs)
    assert read(path) == 1
