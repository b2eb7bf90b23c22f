"""``make bench``: each benchmark against a floor or a peer in the same run; JSON under ``benchmarks/results/``, the gist on
the terminal and in the README.

``python -m benchmarks.run [NAME ...] [--quick] [--results FOLDER]``
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from benchmarks import (
    black_box,
    chaos,
    disk,
    drift,
    failover,
    fleet,
    inference,
    ingest,
    latency,
    nonsense,
    resources,
    scaling,
    scaling_page,
    serial_line,
    sink,
    swaps,
    table,
    throughput,
)
from benchmarks.timing import environment
from examples.demo.processes import NO_MOSQUITTO, DemoError, mosquitto_path

BENCHMARKS = {
    "throughput": throughput.measure,
    "ingest": ingest.measure,
    "serial": serial_line.measure,
    "inference": inference.measure,
    "failover": failover.measure,
    "latency": latency.measure,
    "resources": resources.measure,
    "disk": disk.measure,
    "black_box": black_box.measure,
    "sink": sink.measure,
    "fleet": fleet.measure,
    "drift": drift.measure,
    "scaling": scaling.measure,
}
RELIABILITY = {  # `make reliability`
    "chaos": chaos.measure,
    "swaps": swaps.measure,
    "nonsense": nonsense.measure,
}
NEED_MOSQUITTO = ("latency", "resources", "disk", "chaos", "nonsense", "sink", "scaling")
ALL = {**BENCHMARKS, **RELIABILITY}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.run", description=__doc__)
    parser.add_argument("names", nargs="*", choices=[[], *ALL], metavar="NAME", help=", ".join(ALL))
    parser.add_argument(
        "--quick",
        action="store_true",
        help="small sizes: shows that it runs, measures nothing; kept only where --results says",
    )
    parser.add_argument(
        "--results", type=Path, metavar="FOLDER", help="keep the results there, and leave the README as it is"
    )
    given = parser.parse_args(arguments)
    results: Path | None = given.results or (None if given.quick else table.RESULTS)
    for name in given.names or list(BENCHMARKS):
        if name in NEED_MOSQUITTO and mosquitto_path() is None:
            print(f"{name}: skipped, {NO_MOSQUITTO}")
            continue
        if name == "fleet" and not fleet.is_there():
            print(f"{name}: skipped, {fleet.NO_DATA}")
            continue
        try:
            measured = ALL[name](quick=given.quick)
        except DemoError as error:
            raise SystemExit(f"{name}: {error}") from error
        at = datetime.now(UTC).isoformat(timespec="seconds")
        record = {"benchmark": name, "at": at, "quick": given.quick, "environment": environment(), **measured}
        print(name)
        for row in table.rows({name: record}):
            print(f"  {row.what}: {'; '.join(filter(None, (row.ours, row.beside, row.ratio)))}")
        for what, came in table.reliability({name: record}):
            print(f"  {what}: {came}")
        if results is not None:
            results.mkdir(parents=True, exist_ok=True)
            path = results / f"{name}.json"
            path.write_text(json.dumps(record, indent=2) + "\n")
            print(f"  -> {path}")
        if results == table.RESULTS:  # at once: the next may fail
            table.write(table.README, results)
            print(f"  -> {table.README}")
            if name == scaling_page.NAME:
                scaling_page.write(scaling_page.PAGE, record)
                print(f"  -> {scaling_page.PAGE}")


if __name__ == "__main__":
    main()
