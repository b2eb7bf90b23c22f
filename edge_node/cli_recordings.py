"""``edge-node recordings``: what the black box of this gateway holds, and parts of it as logs.

Exit codes: 0 done, 1 refused or failed (one line says why) or an evidence that differs, 2 called wrongly.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import msgspec
from tabulate import tabulate

from edge_node import recordings, verifying
from edge_node.config import load_config
from edge_node.recordings import NotKept, part_of_alert, part_of_span
from edge_node.retention import Bounds
from edge_node.ring import bounds_of
from edge_node.segments import FOLDER, Segment, load
from edge_node.state_dir import state_dir_of
from models.cli_values import USAGE, UsageError, time_ns
from models.logs import LogError
from models.messages import rfc3339
from models.recording import log_beginning, log_files, read_log

REFUSED = 1

_DESCRIPTION = """The black box of a gateway keeps the raw signal of the last hours, and for longer what is around alerts, on the
gateway's own disk. These commands only read it, whether the gateway runs or not."""


def add(commands: Any) -> None:
    """Adds ``recordings`` to the subparsers ``commands``."""
    top = commands.add_parser(
        "recordings", help="look into the black box, and export from it", description=_DESCRIPTION
    )
    what = top.add_subparsers(dest="what", required=True, parser_class=type(top))

    listed = what.add_parser("list", help="what there is", description="Lists what the black box holds.")
    _add_config(listed, required=True)
    listed.add_argument("--device", metavar="ID", help="of this device only")
    listed.add_argument("--json", action="store_true", help="one JSON object a line, times in ns")
    listed.set_defaults(act=run, part=_list)

    export = what.add_parser(
        "export",
        help="write a part as a log for edge-node replay",
        description="Writes the signal around an alert, or a span of a device's, to a log; a replay of it says what the "
        "gateway said. The devices that say when the device's machine runs come with it.",
    )
    _add_config(export, required=True)
    which = export.add_mutually_exclusive_group(required=True)
    which.add_argument("--alert", metavar="ID", help="around this alert, as long as [black_box] keeps it")
    which.add_argument("--device", metavar="ID", help="of this device, with --from and --until")
    export.add_argument("--from", dest="from_", metavar="TIME", help="RFC 3339, or in --timezone; inclusive")
    export.add_argument("--until", metavar="TIME", help="exclusive")
    export.add_argument(
        "--timezone", metavar="ZONE", help="of times without an offset: UTC, Europe/Berlin, …"
    )
    export.add_argument("-o", "--output", type=Path, required=True, metavar="FILE", help=".parquet or .jsonl")
    export.set_defaults(act=run, part=_export)

    verify = what.add_parser(
        "verify",
        help="compute the evidence of alerts again",
        description="Computes the digest that alerts carry as evidence from what is kept: in the black box (-c), or in "
        "exported logs.",
    )
    _add_config(verify, required=False)
    verify.add_argument("--alert", metavar="ID", help="of this alert only")
    verify.add_argument("logs", nargs="*", metavar="LOG", help="exported logs; globs work")
    verify.set_defaults(act=run, part=_verify)


def run(given: argparse.Namespace) -> int:
    """Runs ``edge-node recordings``; returns the exit code."""
    try:
        code: int = given.part(given)
    except UsageError as error:
        print(f"edge-node recordings: {error}", file=sys.stderr)
        return USAGE
    except (NotKept, LogError) as error:
        print(f"edge-node recordings: {error}", file=sys.stderr)
        return REFUSED
    return code


def _list(given: argparse.Namespace) -> int:
    state_dir, segments, bounds = _black_box(given.config)
    rows = recordings.rows(segments, bounds, running=recordings.is_running(state_dir))
    if given.device is not None:
        rows = [row for row in rows if row.device == given.device]
    if given.json:
        for row in rows:
            print(msgspec.json.encode(row).decode())
        return 0
    if not rows:
        print("the black box is empty")
        return 0
    table = [
        (
            row.device,
            rfc3339(row.first_ns)[:23] + "Z",
            rfc3339(row.last_ns)[:23] + "Z",
            row.n_rows,
            f"{row.n_bytes / 1e6:.1f} MB",
            "\n".join(row.alerts),
            row.state,
        )
        for row in rows
    ]
    print(tabulate(table, headers=("device", "from", "to", "rows", "size", "near alerts", "state")))
    n_bytes = sum(segment.n_bytes for segment in segments)
    print(f"{n_bytes / 1e6:.1f} MB in {len(segments)} files in {state_dir / FOLDER}")
    return 0


def _export(given: argparse.Namespace) -> int:
    span = tuple(
        time_ns(f"--{name}", text, given.timezone)
        for name, text in (("from", given.from_), ("until", given.until))
    )
    if given.device is not None and None in span:
        raise UsageError("--device needs --from and --until as well")
    if given.alert is not None and span != (None, None):
        raise UsageError("--from and --until go with --device; what is around an alert is in [black_box]")
    _, segments, bounds = _black_box(given.config)
    if given.alert is not None:
        part = part_of_alert(segments, given.alert, bounds)
    else:
        from_ns, until_ns = span
        assert from_ns is not None
        assert until_ns is not None
        part = part_of_span(segments, given.device, from_ns, until_ns)
    for note in part.notes:
        _warn(note)
    done = recordings.export(part, given.output, _warn)
    print(
        f"wrote {done.n_rows} rows of {part.device}, {rfc3339(done.first_ns)} to {rfc3339(done.last_ns)}, to {given.output}"
    )
    return 0


def _verify(given: argparse.Namespace) -> int:
    if (given.config is None) == (not given.logs):
        raise UsageError("give either -c FILE or exported logs")
    found = list(_verified_logs(given) if given.logs else _verified_black_box(given))
    if not found:
        raise NotKept(
            "there is no alert in it" if given.alert is None else f"there is no alert {given.alert} in it"
        )
    table = [
        (
            one.mark.alert_id,
            one.mark.seq,
            one.mark.state,
            one.mark.device,
            one.mark.evidence or "",
            one.finding,
        )
        for one in found
    ]
    print(tabulate(table, headers=("alert", "seq", "state", "device", "evidence", "computed again")))
    return REFUSED if any(one.finding == "DIFFERENT" for one in found) else 0


def _verified_logs(given: argparse.Namespace) -> Any:
    for path in log_files(given.logs):
        marks = [m for m in log_beginning(path).marks if given.alert in (None, m.alert_id)]
        items = verifying.with_marks(read_log(path, warn=_warn), marks)
        yield from verifying.verify(items, marks)


def _verified_black_box(given: argparse.Namespace) -> Any:
    _, segments, bounds = _black_box(given.config)
    marks = [mark for segment in segments for mark in segment.contents.marks]
    alerts = dict.fromkeys(mark.alert_id for mark in marks)
    for alert_id in alerts if given.alert is None else [given.alert]:
        part = part_of_alert(segments, alert_id, bounds)
        yield from verifying.verify(part.read(_warn), [mark for mark in marks if mark.alert_id == alert_id])


def _black_box(path: Path) -> tuple[Path, list[Segment], Bounds]:
    """The state directory of the gateway that ``path`` configures, what its black box holds, and its bounds."""
    config = load_config(path, need_models=False)
    state_dir = state_dir_of(config)
    folder = state_dir / FOLDER
    if not folder.is_dir():
        why = "" if config.black_box.enabled else ": [black_box] enabled is false"
        raise NotKept(f"there is no black box in {folder}{why}")
    return state_dir, load(folder, _warn), bounds_of(config.black_box)


def _warn(text: str) -> None:
    print(f"edge-node recordings: warning: {text}", file=sys.stderr)


def _add_config(command: argparse.ArgumentParser, *, required: bool) -> None:
    command.add_argument(
        "-c", "--config", type=Path, required=required, metavar="FILE", help="the gateway's gateway.toml"
    )
