"""The bar of a replay: it knows how far there is to go, and gets there."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
from arro3.io import infer_csv_schema, read_csv, write_parquet

from edge_node import cli_replay
from edge_node.cli import main
from models.logs import LogOptions, Tick
from models.recording import RecordingWriter, read_log
from models.signal import SampleBlock
from tests.edge_node.replays import signal, write_csv
from tests.fixtures.bundle_files import BUNDLE

N = 3000


class Bar:
    """In the place of tqdm."""

    last: Bar

    def __init__(self, *, total: int | None, unit: str, **_: object) -> None:
        self.total, self.unit, self.n = total, unit, 0
        Bar.last = self

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def update(self, n: int) -> None:
        self.n += n

    @staticmethod
    def write(*_: object, **__: object) -> None:
        pass


@pytest.fixture(autouse=True)
def instead_of_tqdm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli_replay, "tqdm", Bar)


def replayed(log: Path, *arguments: str) -> Bar:
    assert main(["replay", str(log), "--model", str(BUNDLE), *arguments]) == 0
    return Bar.last


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One signal as every kind of log; in ``two.csv`` another device's rows are between."""
    folder = tmp_path_factory.mktemp("logs")
    csv = write_csv(folder / "pump.csv", signal(N))
    with gzip.open(folder / "pump.csv.gz", "wb") as packed:
        packed.write(csv.read_bytes())
    with csv.open("rb") as file:
        schema = infer_csv_schema(file, has_header=True)
    write_parquet(read_csv(str(csv), schema, has_header=True), folder / "table.parquet")
    for suffix in ("jsonl", "parquet"):
        with RecordingWriter(folder / f"recorded.{suffix}") as recording:
            for item in read_log(csv, LogOptions(block_rows=7, device_id="pump")):
                recording.write(item)
                assert isinstance(item, SampleBlock)
                recording.write(Tick(item.arrival_ns))
    write_csv(folder / "two.csv", signal(2 * N), devices=["pump", "other"] * N)
    return folder


@pytest.mark.parametrize("name", ["pump.csv", "table.parquet"])
def test_a_table_is_measured_in_rows(logs: Path, name: str) -> None:
    bar = replayed(logs / name)
    assert (bar.n, bar.unit) == (N, " rows")
    assert bar.total in (N, N + 1)  # a line of text may be the header


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_a_recording_is_measured_in_blocks_and_ticks(logs: Path, suffix: str) -> None:
    bar = replayed(logs / f"recorded.{suffix}")
    n_records = 2 * -(-N // 7)
    assert (bar.n, bar.unit) == (n_records, " records")
    assert bar.total in (n_records, n_records + 1)


@pytest.mark.parametrize(
    "name", ["pump.csv", "pump.csv.gz", "table.parquet", "recorded.jsonl", "recorded.parquet"]
)
def test_a_part_is_measured_by_what_was_asked_for(logs: Path, name: str) -> None:
    bar = replayed(logs / name, "--rows", "1000", "--skip-rows", "500")
    assert (bar.n, bar.total, bar.unit) == (1000, 1000, " rows")


def test_more_rows_than_there_are(logs: Path) -> None:
    bar = replayed(logs / "table.parquet", "--rows", "100000", "--skip-rows", "500")
    assert (bar.n, bar.total) == (N - 500, N - 500)


def test_a_device_among_others_is_found_by_reading_them_all(logs: Path) -> None:
    bar = replayed(logs / "two.csv", "--device", "pump")
    assert bar.n == 2 * N
    assert bar.total in (2 * N, 2 * N + 1)
    bar = replayed(logs / "two.csv", "--device", "pump", "--rows", "100")
    assert (bar.n, bar.total) == (100, 100)


def test_what_is_packed_has_no_known_length(logs: Path) -> None:
    bar = replayed(logs / "pump.csv.gz")
    assert (bar.n, bar.total) == (N, None)
