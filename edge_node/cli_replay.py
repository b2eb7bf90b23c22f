"""``edge-node replay``: a recorded log through the gateway, its alerts as they come and a summary at the end.

Exit codes: 0 done, 1 refused (the log, the labels, the model, the configuration), 2 called wrongly, 130 interrupted.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from edge_node.budgets import ask, join
from edge_node.config import ConfigError
from edge_node.inference import ArtifactMissing
from edge_node.model_store import BundleRefused
from edge_node.replay import Item, RealTime, as_received, is_recording, play, ticks_within
from edge_node.replay_failures import FailureWatch
from edge_node.replay_failures_text import failures_text
from edge_node.replay_news import News, alert_line
from edge_node.replay_scores import ScoresFile
from edge_node.replay_setup import (
    check_channels,
    check_recorded,
    core_and_options,
    extent,
    failures_of,
    of_device,
    resume,
)
from edge_node.replay_watchers import Watchers
from edge_node.report.follow import Follow
from edge_node.report.write import make_folder, page_file, write_page
from models import messages
from models.cli_values import USAGE, UsageError, count, labels_of, positive, probability, time_ns, time_span
from models.logs import LogError
from models.messages import Alert
from models.recording import file_device, log_files, read_log, select_rows
from models.runtime import GraphUnusable, RuntimeUnavailable
from models.signal import NS_PER_S, SampleBlock

REFUSED, INTERRUPTED = 1, 130

_DESCRIPTION = """Runs a recorded log through the same windows, model and alerting as a live gateway, prints each
alert as it comes, and ends with a summary. With labels (a column "anomaly" in the log, or --labels) it says how well
the alerts match them, beside what chance would score. With --events it says which of them an alert would have
announced, and what each budget of alerts would have caught. Neither is ever shown to the model."""

_LEAD_S = 7 * 86_400.0


def add(commands: Any) -> None:
    """Adds ``replay`` to the subparsers ``commands``."""
    replay = commands.add_parser(
        "replay", help="run a recorded log through the gateway and report", description=_DESCRIPTION
    )
    replay.add_argument(
        "logs",
        nargs="+",
        metavar="LOG",
        help="CSV, JSON lines, Parquet or a recording of edge-node; globs work",
    )
    what = replay.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "-c", "--config", type=Path, metavar="FILE", help="gateway.toml: its devices and models"
    )
    what.add_argument("--model", type=Path, metavar="BUNDLE", help="one model, for a log of one device")
    replay.add_argument(
        "--speed",
        choices=("max", "1", "10"),
        default="max",
        help="times real time; default: as fast as it goes",
    )
    level = replay.add_mutually_exclusive_group()
    level.add_argument(
        "--alerts-per-week",
        type=positive,
        metavar="N",
        help="alert budget per device; default: the configuration's, with --model 1",
    )
    level.add_argument(
        "--p", type=probability, metavar="P", help="alert on p-values at or below this instead"
    )
    out = replay.add_argument_group("what is written")
    out.add_argument("--output", type=Path, metavar="FILE", help="the alerts as JSON lines")
    out.add_argument("--scores", type=Path, metavar="FILE", help="every score as Parquet (.parquet)")
    out.add_argument(
        "--report",
        type=Path,
        metavar="DIR",
        help="a page of signals, scores, alerts and failures, one HTML file that needs nothing else",
    )
    read = replay.add_argument_group("reading the log")
    read.add_argument(
        "--labels",
        type=Path,
        metavar="FILE",
        help="known anomalies: CSV with start,end, or JSON, also by log; default: label columns of the logs",
    )
    read.add_argument(
        "--device", metavar="ID", help="which device of a log of several; or what to call the one"
    )
    read.add_argument("--rows", type=count(1), metavar="N", help="only N rows of each device")
    read.add_argument("--skip-rows", type=count(0), default=0, metavar="N", help="leave out the first N rows")
    read.add_argument("--from", dest="from_", metavar="TIME", help="RFC 3339, or in --timezone; inclusive")
    read.add_argument("--until", metavar="TIME", help="exclusive")
    read.add_argument("--timezone", metavar="ZONE", help="of times without an offset: UTC, Europe/Berlin, …")
    read.add_argument("--time-column", metavar="NAME", help="default: found")
    read.add_argument("--separator", metavar="C", help="of CSV; default: found")
    read.add_argument(
        "--rate-hz", metavar="RATE", help="of a log without times, or with coarse ones; default: the model's"
    )
    read.add_argument(
        "--skip-bad-lines", action="store_true", help="leave out lines that cannot be read, and count them"
    )
    failed = replay.add_argument_group("failures")
    failed.add_argument(
        "--events",
        dest="failures",
        type=Path,
        metavar="FILE",
        help="what failed when: CSV with time, device or machine where the log has several, text",
    )
    failed.add_argument(
        "--lead",
        type=time_span,
        metavar="SPAN",
        help="how long before a failure an alert counts for it: 12h, 7d; default: 7d",
    )
    replay.set_defaults(act=run)


def run(given: argparse.Namespace) -> int:
    """Runs ``edge-node replay``; returns the exit code."""
    try:
        _replay(given)
    except UsageError as error:
        print(f"edge-node replay: {error}", file=sys.stderr)
        return USAGE
    except (
        ArtifactMissing,
        BundleRefused,
        ConfigError,
        GraphUnusable,
        LogError,
        RuntimeUnavailable,
    ) as error:
        print(f"edge-node replay: {error}", file=sys.stderr)
        return REFUSED
    except KeyboardInterrupt:
        kept = f"; {given.output} has the alerts until then" if given.output is not None else ""
        print(f"edge-node replay: interrupted; the log was not replayed to its end{kept}", file=sys.stderr)
        return INTERRUPTED
    return 0


def _replay(given: argparse.Namespace) -> None:
    if given.scores is not None and given.scores.suffix != ".parquet":
        raise UsageError(
            f"--scores {given.scores}: scores are written as Parquet: give the file a name that ends in .parquet"
        )
    if given.lead is not None and given.failures is None:
        raise UsageError("--lead says how long before a failure an alert counts: give --events, too")
    files = log_files(given.logs)
    for name in ("output", "scores"):
        target = getattr(given, name)
        if target is not None and any(target.exists() and target.samefile(file) for file in files):
            raise UsageError(f"--{name} {target} is a log to replay: choose another name")
    from_ns, until_ns = (
        time_ns(f"--{n}", t, given.timezone) for n, t in (("from", given.from_), ("until", given.until))
    )
    core, options = core_and_options(given, files, _warn)
    recorded = is_recording(files)
    absent: frozenset[str] = frozenset()
    if recorded:
        check_recorded(files, core)
        if not given.skip_rows and from_ns is None:
            absent = resume(files, core, _warn)
    else:
        check_channels(files[0], options, core)
    labels = labels_of(given, options, files)
    failed: FailureWatch | None = None
    if (failures := failures_of(given, files, options, core)) is not None:
        lead_s = _LEAD_S if given.lead is None else given.lead
        budgets = ask(core)
        core.on_learned = partial(join, core, budgets)
        failed = FailureWatch(core, failures, round(lead_s * NS_PER_S), budgets)
    if given.report is not None:
        make_folder(given.report)
    seen = Watchers(core, labels, failed, None if given.report is None else Follow(core))
    report, news = seen.report, News()
    is_part = bool(given.skip_rows) or (given.rows, from_ns, until_ns) != (None, None, None)
    speed = None if given.speed == "max" else float(given.speed)
    with ExitStack() as stack:
        scores = stack.enter_context(ScoresFile(given.scores)) if given.scores is not None else None
        output = stack.enter_context(closing(_AlertsFile(given.output))) if given.output is not None else None
        way = extent(given, files, options, core)
        bar = stack.enter_context(
            tqdm(total=way.total, unit=way.unit, unit_scale=True, disable=None, leave=False)
        )

        def selected() -> Iterator[Item]:
            read = read_log(files, options, warn=_warn)
            if not way.selected:
                read = _counted(read, bar, in_records=recorded)
            part = of_device(read, given, core, files, recorded=recorded)
            if is_part:
                rows = select_rows(
                    part, skip_rows=given.skip_rows, n_rows=given.rows, from_ns=from_ns, until_ns=until_ns
                )
                part = ticks_within(rows, n_rows=given.rows, until_ns=until_ns)
            if way.selected:
                part = _counted(part, bar)
            for item in part:
                if isinstance(item, SampleBlock):
                    seen.block(item)
                yield item

        items = as_received(selected(), core, recorded=recorded, speed=speed)
        pace = None if speed is None else RealTime(speed)
        for step in play(items, core, recorded=recorded, pace=pace):
            for alert in step.alerts:
                if alert.device in absent:
                    continue  # that it is silent there says nothing
                seen.alert(alert)
                if output is not None:
                    output.write(alert)
                if news.is_in(alert):
                    tqdm.write(alert_line(alert), file=sys.stdout)
            if step.alerts and speed is not None:
                sys.stdout.flush()
            for trace in step.traces:
                seen.trace(trace)
                if scores is not None:
                    scores.add(trace)
    if not report.n_rows:
        if not is_part:
            raise LogError(files[0], "holds no rows")
        raise LogError(
            files[0], "no rows in the part asked for", remedy="look at --rows, --skip-rows, --from, --until"
        )
    named_by_file = None if recorded else options.device_id or file_device(files[0])
    for said in report.advice(named_by_file, labels_of_file=given.labels is not None):
        _warn(said)
    if news.n_left_out:
        print(
            f"({news.n_left_out} updates of open alerts that say nothing new are not shown; --output has them)"
        )
    print(report.text())
    findings = seen.findings()
    if findings is not None:
        print(f"\n{failures_text(findings, report.log_ns)}")
    if given.report is not None:
        file = page_file(given.report, files)
        write_page(file, seen.replayed(file.stem, [str(log) for log in files], findings))
        print(f"\nwrote {file}")


class _AlertsFile:
    """JSON lines, each with the kernel as soon as it is written. Raises LogError."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._file = path.open("wb", buffering=0)
        except OSError as error:
            raise LogError(path, f"cannot be written ({error.strerror})") from error

    def write(self, alert: Alert) -> None:
        line = memoryview(messages.encode(alert) + b"\n")
        try:
            while line:
                line = line[self._file.write(line) :]
        except OSError as error:
            raise LogError(self._path, f"cannot be written ({error.strerror})") from error

    def close(self) -> None:
        self._file.close()


def _counted(items: Iterator[Item], bar: tqdm[Any], *, in_records: bool = False) -> Iterator[Item]:
    """``items``, each counted when the next one is asked for: rows, or records."""
    for item in items:
        yield item
        n_rows = item.n if isinstance(item, SampleBlock) else 0
        bar.update(1 if in_records else n_rows)


def _warn(text: str) -> None:
    tqdm.write(f"edge-node replay: warning: {text}", file=sys.stderr)
