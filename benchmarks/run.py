"""``make bench``: each benchmark against a floor in the same run; JSON under ``benchmarks/results/``, the gist on the terminal.

``python -m benchmarks.run [throughput] [ingest] [--quick]``
"""

from __future__ import annotations

import argparse
import json
from datetime import UTC, datetime
from pathlib import Path

from benchmarks import ingest, throughput
from benchmarks.timing import environment

BENCHMARKS = {"throughput": throughput.measure, "ingest": ingest.measure}
RESULTS = Path(__file__).parent / "results"


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.run", description=__doc__)
    parser.add_argument(
        "names", nargs="*", choices=[[], *BENCHMARKS], metavar="NAME", help=", ".join(BENCHMARKS)
    )
    parser.add_argument(
        "--quick", action="store_true", help="small sizes: shows that it runs, measures nothing"
    )
    parser.add_argument("--results", type=Path, default=RESULTS)
    given = parser.parse_args()
    given.results.mkdir(parents=True, exist_ok=True)
    for name in given.names or list(BENCHMARKS):
        result = BENCHMARKS[name](quick=given.quick)
        record = {
            "benchmark": name,
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            "quick": given.quick,
        }
        path = given.results / f"{name}.json"
        path.write_text(json.dumps({**record, "environment": environment(), **result}, indent=2) + "\n")
        print(f"{name} -> {path}")
        for key, value in result.items():
            if key not in ("pipeline", "floor"):
                print(f"  {key}: {json.dumps(value)}")


if __name__ == "__main__":
    main()
