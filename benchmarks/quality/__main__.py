"""``python -m benchmarks.quality [SET ...] [--quick] [--results FOLDER] [--against FILE]``: how well faults are found, JSON
under ``benchmarks/results/`` and a table on the terminal; with ``--against`` what has changed since the results in FILE.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.metadata
import json
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from threadpoolctl import threadpool_limits
from tqdm import tqdm

from benchmarks import table
from benchmarks.fleet import DATA
from benchmarks.quality import femto, metrics, nab, skab, smap_msl
from benchmarks.quality.cases import FAMILIES, QUICK, Row, Scope, Tick
from benchmarks.quality.compare import changes
from benchmarks.quality.report import text
from benchmarks.timing import environment
from models.manifest import Family

VERSIONS_OF = ("scikit-learn", "scipy", "TSB-AD", "flatbuffers")


class Set(NamedTuple):
    """How many steps ``measure`` tells of, that, and how much of the set is run; it lies in the folder of its name."""

    n_steps: Callable[[Path, Scope], int]
    measure: Callable[[Path, Tick, Scope], Row]
    scope: Scope = Scope()


SETS: Mapping[str, Set] = {
    "skab": Set(skab.n_steps, skab.measure),
    "femto": Set(femto.n_steps, femto.measure),
    "nab": Set(nab.n_steps, nab.measure, Scope(seeds=(0,))),  # many files: one seed
    "smap_msl": Set(smap_msl.n_steps, smap_msl.measure, Scope(seeds=(0,))),
}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.quality", description=__doc__)
    parser.add_argument("names", nargs="*", choices=[[], *SETS], metavar="SET", help=", ".join(SETS))
    parser.add_argument(
        "--quick",
        action="store_true",
        help="two files of each set and one family: shows that it runs, measures nothing",
    )
    parser.add_argument(
        "--family",
        action="append",
        choices=FAMILIES,
        metavar="NAME",
        help=f"{', '.join(FAMILIES)}; repeatable; default: all",
    )
    parser.add_argument("--results", type=Path, metavar="FOLDER", help="keep the results there instead")
    parser.add_argument("--against", type=Path, metavar="FILE", help="results to compare with; its set alone")
    given = parser.parse_args(arguments)
    if metrics.generate_curve is None and not given.quick:
        raise SystemExit("VUS-PR needs TSB-AD, alone: pip install --no-deps TSB-AD")
    results: Path | None = given.results or (None if given.quick else table.RESULTS)
    before = None if given.against is None else _read(given.against)
    names = given.names or ([_set_of(before, given.against)] if before is not None else list(SETS))
    if before is not None and names != [_set_of(before, given.against)]:
        raise SystemExit(f"{given.against} is of {_set_of(before, given.against)}: name that set, or none")
    for name in names:
        if not (DATA / name).exists():
            print(
                f"{name}: skipped, the recorded data is not here: set LINEWATCH_DATA to a folder that holds {name}/"
            )
            continue
        record = measured(name, quick=given.quick, families=given.family)
        print(text(record))
        if before is not None:
            print(changes(before, record))
        if results is not None:
            results.mkdir(parents=True, exist_ok=True)
            path = results / f"{record['benchmark']}.json"
            path.write_text(json.dumps(record, indent=1) + "\n")
            print(f"  -> {path}")
        if results == table.RESULTS:
            table.write(table.README, results, table.QUALITY)
            print(f"  -> {table.README}, {table.QUALITY}")


def measured(name: str, *, quick: bool, families: Sequence[Family] | None = None) -> dict[str, Any]:
    """The results of a set, by ``families`` (None: its usual ones), with what they were made by."""
    chosen = SETS[name]
    scope = QUICK if quick else chosen.scope
    if families:
        scope = dataclasses.replace(scope, families=families)
    began = time.perf_counter()
    # One thread: what a sum comes to depends on how it is shared out, and more are slower on matrices as small as these.
    with threadpool_limits(1), tqdm(total=chosen.n_steps(DATA, scope), disable=None, leave=False) as bar:
        found = chosen.measure(DATA, _tick(bar), scope)
    made_by = environment()
    versions = dict(made_by["versions"])  # type: ignore[call-overload]
    for package in VERSIONS_OF:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = None
    return {
        "benchmark": f"quality_{name}",
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "quick": quick,
        "environment": {**made_by, "versions": versions},
        "seeds": list(scope.seeds),
        "took_s": round(time.perf_counter() - began, 1),
        **found,
    }


def _tick(bar: Any) -> Tick:
    def tick(step: str) -> None:
        bar.set_description(step)
        bar.update()

    return tick


def _read(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise SystemExit(f"{path} cannot be read ({error}): name a file of an earlier run") from error
    if not isinstance(record, dict) or _set_of(record, path) not in SETS:
        raise SystemExit(f"{path} holds no results of this command")
    return record


def _set_of(record: Mapping[str, Any], path: Path) -> str:
    return str(record.get("benchmark", "")).removeprefix("quality_")


if __name__ == "__main__":
    main()
