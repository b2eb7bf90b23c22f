"""``cloud-sink learn``, one model or several, on threads and on a real scheduler with real workers."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec
import pytest

from cloud_sink.bundle import read_manifest
from cloud_sink.features_store import DAY_NS, FeatureStore
from cloud_sink.summaries import SummaryTable
from models import manifest as manifests
from tests.brokers import free_port, wait_for
from tests.cloud_sink.clusters import scheduler, workers
from tests.cloud_sink.sinks import cloud_sink, database
from tests.cloud_sink.sinks import config as sink_toml
from tests.cloud_sink.test_fleet_fit import summaries
from tests.fixtures.bundle_files import BUNDLE

pytestmark = pytest.mark.timeout(180)
CLASSES = ("press", "pump", "fan")


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(cloud_sink(*arguments), capture_output=True, text=True, timeout=120)


def filled(folder: Path, n_days: int = 6, n_spans: int = 3, features: Path | None = None) -> Path:
    """sink.toml in ``folder``; summaries of three classes in its store, or in ``features``, and a bundle of each class."""
    folder.mkdir(exist_ok=True)
    sink = sink_toml(folder, free_port(), store="" if features is None else f'features = "{features}"')
    store = FeatureStore(str(features or folder / "features"), "a")
    with database(sink):
        pass
    manifest = read_manifest(BUNDLE)
    for number, class_ in enumerate(CLASSES):
        like(folder, class_)
        some = summaries(manifest, n_spans=n_spans, shift=0.3 * number)
        for day in range(n_days):
            here = [
                msgspec.structs.replace(
                    s,
                    class_=class_,
                    message_id=f"{s.message_id}-{day}",
                    start_ns=s.start_ns - day * DAY_NS,
                    end_ns=s.end_ns - day * DAY_NS,
                )
                for s in some
            ]
            store.append([SummaryTable.of(here)])
    return sink


def like(folder: Path, class_: str, **more: Any) -> Path:
    """A bundle in service, as far as it is learned from."""
    (folder / class_).mkdir()
    manifest = msgspec.structs.replace(read_manifest(BUNDLE), model_id=f"{class_}-1", class_=class_, **more)
    (folder / class_ / "manifest.json").write_bytes(manifests.encode(manifest))
    return folder / class_


def likes(folder: Path) -> list[str | Path]:
    return [part for class_ in CLASSES for part in ("--like", folder / class_)]


def model(path: Path) -> dict[str, Any]:
    """A bundle's manifest but for when it was made."""
    found: dict[str, Any] = json.loads((path / "manifest.json").read_bytes())
    found.pop("created_ns")
    return found


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A scheduler with two workers."""
    folder = tmp_path_factory.mktemp("cluster")
    with scheduler(folder) as (address, _), workers(folder, address):
        yield address


def test_many_models_on_workers_are_those_of_threads_one_by_one(tmp_path: Path, cluster: str) -> None:
    sink = filled(tmp_path)
    for class_ in CLASSES:
        done = run("learn", "-c", sink, "--like", tmp_path / class_, "-o", tmp_path / "one" / class_)
        assert done.returncode == 0, done.stderr
    together = run("learn", "-c", sink, *likes(tmp_path), "--out-dir", tmp_path / "threads")
    assert together.returncode == 0, together.stderr
    assert together.stdout.count("wrote ") == 3
    there = run(
        "learn", "-c", sink, *likes(tmp_path), "--out-dir", tmp_path / "workers", "--scheduler", cluster
    )
    assert (there.returncode, there.stderr) == (0, "")
    for class_ in CLASSES:
        alone = model(tmp_path / "one" / class_)
        assert alone["training"]["n_windows"] == 6 * 6 * 3 * 60
        for where in ("threads", "workers"):
            assert model(tmp_path / where / f"{class_}-1") == alone


def test_a_class_that_cannot_be_learned_from_holds_up_no_other(tmp_path: Path, cluster: str) -> None:
    sink = filled(tmp_path, n_days=2)
    odd = like(tmp_path, "odd", schema_id="f" * 16)
    arguments = [*likes(tmp_path), "--like", odd, "--out-dir", tmp_path / "out"]
    done = run("learn", "-c", sink, *arguments, "--scheduler", cluster, "--key", _key(tmp_path))
    assert done.returncode == 1
    assert re.fullmatch(r"cloud-sink: odd-1: there are no summaries of class 'odd'.*\n", done.stderr)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [f"{c}-1" for c in sorted(CLASSES)]
    signed = manifests.decode((tmp_path / "out" / "fan-1" / "manifest.json").read_bytes())
    assert signed.key_id is not None  # the key stays where the command runs


def _key(folder: Path) -> Path:
    assert run("keygen", folder / "key").returncode == 0
    return folder / "key"


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--like", "press", "--like", "pump", "-o", "out"], "--out-dir, not -o"),
        (["--like", "press", "--like", "press", "--out-dir", "out"], "names model press-1 twice"),
        (["--like", "press", "--like", "pump", "--class", "x", "--out-dir", "out"], "--class is of one"),
        (["--like", "press"], "one of the arguments -o --out-dir is required"),
    ],
)
def test_called_wrongly(tmp_path: Path, arguments: list[str], text: str) -> None:
    sink = filled(tmp_path, n_days=1)
    done = subprocess.run(
        cloud_sink("learn", "-c", sink, *arguments), capture_output=True, text=True, timeout=60, cwd=tmp_path
    )
    assert (done.returncode, text in done.stderr) == (2, True), done.stderr


def test_no_scheduler_and_no_worker(tmp_path: Path) -> None:
    sink = filled(tmp_path, n_days=1)
    command = ("learn", "-c", sink, "--like", tmp_path / "press", "-o", tmp_path / "out", "--scheduler")
    nobody = f"tcp://127.0.0.1:{free_port()}"
    done = run(*command, nobody)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"cloud-sink: no Dask scheduler answers at {nobody} within 10 s")
    assert len(done.stderr.splitlines()) == 1
    nonsense = run(*command, "carrier-pigeon://x")
    assert (nonsense.returncode, len(nonsense.stderr.splitlines())) == (1, 1)
    with scheduler(tmp_path) as (address, _):
        done = run(*command, address)
    assert (done.returncode, f"{address} has no worker" in done.stderr) == (1, True)
    assert not (tmp_path / "out").exists()


OTHER = """
import importlib.metadata as metadata
real = metadata.version
metadata.version = lambda name: "0.0.1" if name in ("linewatch", "scikit-learn") else real(name)
"""


def test_a_worker_with_other_versions_is_named(tmp_path: Path) -> None:
    sink = filled(tmp_path, n_days=1)
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(OTHER)
    env = {"PYTHONPATH": f"{tmp_path / 'site'}{os.pathsep}{Path(__file__).parents[2]}"}
    with scheduler(tmp_path) as (address, _), ExitStack() as stack:
        stack.enter_context(workers(tmp_path, address, 1))
        stack.enter_context(workers(tmp_path, address, 1, env=env, first=1))
        done = run(
            "learn", "-c", sink, "--like", tmp_path / "press", "-o", tmp_path / "out", "--scheduler", address
        )
    assert done.returncode == 1
    assert done.stderr.count("has other versions") == 1
    assert re.search(r"other versions: linewatch 0\.0\.1 \(here \S+\), scikit-learn 0\.0\.1", done.stderr)


def test_workers_that_do_not_see_the_store_are_named(tmp_path: Path, cluster: str) -> None:
    """The command's own folder of summaries is at another place for them: in a mount namespace of its own."""
    features = tmp_path / "only-here"
    sink = filled(tmp_path, n_days=1, features=features)
    inside = f"mount --bind {features} /mnt && exec env -- "
    command = cloud_sink(
        "learn", "-c", sink, "--like", tmp_path / "press", "-o", tmp_path / "out", "--scheduler", cluster
    )
    sink.write_text(sink.read_text().replace(f'features = "{features}"', 'features = "/mnt"'))
    try:
        done = subprocess.run(
            ["unshare", "--mount", "sh", "-c", inside + " ".join(command)],
            capture_output=True,
            text=True,
            timeout=60,
        )
    except FileNotFoundError:
        pytest.skip("needs unshare")
    if "Operation not permitted" in done.stderr or "must be superuser" in done.stderr:
        pytest.skip("needs a mount namespace of its own")
    assert done.returncode == 1
    assert done.stderr.count("sees nothing of /mnt: share that folder") == 2, done.stderr


def test_one_of_two_workers_is_killed_at_work(tmp_path: Path) -> None:
    from distributed import Client

    sink = filled(tmp_path, n_days=25)
    wanted = run("learn", "-c", sink, *likes(tmp_path), "--out-dir", tmp_path / "threads")
    assert wanted.returncode == 0, wanted.stderr
    with scheduler(tmp_path) as (address, _), workers(tmp_path, address) as processes:
        with Client(address, set_as_default=False) as watching:
            names = {info["name"]: worker for worker, info in watching.scheduler_info()["workers"].items()}
            command = cloud_sink(
                "learn", "-c", sink, *likes(tmp_path), "--out-dir", tmp_path / "out", "--scheduler", address
            )
            learning = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

            def at_work() -> bool:
                return any(
                    "read_day" in str(key) or "learned" in str(key)
                    for key in watching.processing()[names["worker-1"]]
                )

            wait_for(at_work, "work of worker-1", timeout_s=60)
            os.kill(processes[1].pid, signal.SIGKILL)
            assert learning.poll() is None
            out, err = learning.communicate(timeout=100)
        assert learning.returncode == 0, err
        assert processes[1].wait(timeout=10) == -signal.SIGKILL
    assert out.count("wrote ") == 3
    for class_ in CLASSES:
        assert model(tmp_path / "out" / f"{class_}-1") == model(tmp_path / "threads" / f"{class_}-1")


def test_a_scheduler_that_goes_is_an_error_in_bounded_time(tmp_path: Path) -> None:
    sink = filled(tmp_path, n_days=25)
    with scheduler(tmp_path) as (address, process), workers(tmp_path, address):
        command = cloud_sink(
            "learn", "-c", sink, *likes(tmp_path), "--out-dir", tmp_path / "out", "--scheduler", address
        )
        learning = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        log = tmp_path / "scheduler.log"
        wait_for(lambda: b"Receive client connection" in log.read_bytes(), "the command", timeout_s=60)
        os.kill(process.pid, signal.SIGKILL)
        out, err = learning.communicate(timeout=100)
    assert (learning.returncode, out) == (1, "")
    assert re.search(r"cloud-sink: the scheduler at \S+ is gone", err), err
    assert not (tmp_path / "out").exists()
