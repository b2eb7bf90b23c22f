"""``edge-node``: run, check, record, replay, recordings, plan, doctor.

Exit codes: 0 done, 1 refused or failed (one line says why), 2 wrong usage.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.metadata
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from tabulate import tabulate

from edge_node import cli_doctor, cli_plan, cli_recordings, cli_replay, probing
from edge_node.assembly import alert_levels, assemble
from edge_node.config import ConfigError, load_config
from edge_node.config_devices import listed
from edge_node.learner import wanted_windows
from edge_node.model_in_service import in_service
from edge_node.model_record import NotAdmitted
from edge_node.model_store import Bundle
from edge_node.plans import DevicePlan, LearnPlan
from edge_node.teaching import Teacher
from models.cli_values import Parser, positive
from models.logs import LogError
from models.messages import rfc3339
from models.program_log import set_up_logging
from models.runtime import RuntimeUnavailable
from models.signal import NS_PER_S
from models.wording import duration

FAILED = 1
LONG_NS = 3 * 86_400 * NS_PER_S  # of learning, from which on check says that there is a remedy


def parser() -> argparse.ArgumentParser:
    top = Parser(prog="edge-node", description="The Linewatch gateway: sensor streams in, alerts out.")
    top.add_argument(
        "--version", action="version", version=f"%(prog)s {importlib.metadata.version('linewatch')}"
    )
    commands = top.add_subparsers(dest="command", required=True, parser_class=Parser)

    run = commands.add_parser(
        "run", help="run the gateway", description="Runs the gateway until it is stopped."
    )
    _add_config(run)
    run.add_argument(
        "--record", type=Path, metavar="FILE", help="also write what the sources deliver (.jsonl or .parquet)"
    )
    run.add_argument(
        "--dry-run",
        action="store_true",
        help="print what would be sent in place of sending it; nothing is kept on disk",
    )
    run.set_defaults(act=_run)

    check = commands.add_parser(
        "check",
        help="check a configuration without running it",
        description="Loads the configuration and its models, and says what would run.",
    )
    _add_config(check)
    check.add_argument(
        "--test",
        action="store_true",
        help="also connect to every broker, and read every serial port and bus once",
    )
    check.set_defaults(act=_check)

    record = commands.add_parser(
        "record",
        help="write what the sources deliver to a log",
        description="Writes what the sources deliver to a log that cloud-sink train and edge-node replay read. "
        "No model is needed; nothing is published. It keeps the configuration it began with: SIGHUP is refused.",
    )
    _add_config(record)
    record.add_argument("-o", "--output", type=Path, required=True, metavar="FILE", help=".jsonl or .parquet")
    record.add_argument("--for", dest="for_s", type=positive, metavar="SECONDS", help="stop after this long")
    record.set_defaults(act=_record)

    cli_replay.add(commands)
    cli_recordings.add(commands)
    cli_plan.add(commands)
    cli_doctor.add(commands)
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs ``edge-node``; returns the exit code."""
    given = parser().parse_args(arguments)
    try:
        code: int = given.act(given)
    except (ConfigError, LogError, RuntimeUnavailable) as error:
        print(error, file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader of our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return code


def _run(given: argparse.Namespace) -> int:
    from edge_node.daemon import Daemon, StartError
    from edge_node.running_sources import DaemonFailed

    config = load_config(given.config)
    set_up_logging(config.gateway.log_level, config.gateway.log_format)
    try:
        daemon = Daemon(given.config, record=given.record, dry_run=given.dry_run)
        asyncio.run(daemon.run(end_with_sources=given.dry_run))
    except (StartError, DaemonFailed) as error:
        print(f"edge-node: {error}", file=sys.stderr)
        return FAILED
    return 0


def _check(given: argparse.Namespace) -> int:
    notices: list[str] = []
    try:
        config = load_config(given.config)
        core = assemble(config, on_notice=notices.append)
    except ConfigError as error:
        print(error, file=sys.stderr)
        if error.partial:
            print("more may show once these are corrected", file=sys.stderr)
        return FAILED
    rows, unnamed = [], []
    serving = in_service(config, core)
    for plan in core.plans:
        window = _told_window(plan)
        model, level = "none: limits and sensor checks only", ""
        if plan.model is not None:
            engine = core.engines[plan.engine]
            model = f"{plan.model.model_id} v{plan.model.version} on {engine.backend}"
            level = plan.levels[engine.target].text()
        elif plan.learn is not None and (fleet := serving.get(plan.learn.fleet)) and fleet.version:
            model = f"{fleet.model_id} v{fleet.version}, adopted here"
        elif plan.learn is not None:
            bundle = _learned(plan, core.teacher, notices)
            model = _told_learned(plan, plan.learn, bundle)
            if bundle is None and _learning_ns(plan, plan.learn) > LONG_NS:
                notices.append(
                    f"{plan.device.device_id} needs {duration(_learning_ns(plan, plan.learn))} or more of running until it "
                    "scores: a shorter window or interval_s takes less"
                )
            if bundle is not None:
                notices += [f"{plan.device.device_id}: {note}" for note in bundle.manifest.training.notes[1:]]
                levels = alert_levels(bundle.manifest, config.device(plan.device.device_id))
                level = levels["cpu-float32"].text()
        elif config.device(plan.device.device_id).says_no_model:
            unnamed.append(plan.device.device_id)
        if (
            plan.model is None
            and plan.learn is None
            and config.device(plan.device.device_id).features is not None
        ):
            notices.append(
                f"features of {plan.device.device_id} change nothing: there is no model that is learned from them"
            )
        rows.append(
            (plan.device.device_id, plan.device.machine, len(plan.device.channels), window, model, level)
        )
    print(tabulate(rows, headers=("device", "machine", "channels", "window", "model", "alerts at")))
    for other in serving.values():
        print(other.text)
    if unnamed:
        print(
            f'no model named for {listed(unnamed)}: model = "learn" has this gateway make one, "none" ends this line'
        )
    for notice in notices:
        print(f"warning: {notice}")
    if given.test:
        set_up_logging(
            config.gateway.log_level, config.gateway.log_format, logging.CRITICAL
        )  # what a connection would log, the report says
        failed, n_tried = probing.report(config)
        if failed:
            print(f"{given.config}: {failed} of {_plural(n_tried, 'connection')} cannot be used")
            return FAILED
    n_devices, n_sources = _plural(len(core.plans), "device"), _plural(len(config.sources), "source")
    needs = "" if config.sources else "; `edge-node run` needs a [[source]], replay does not"
    print(f"{given.config}: ok, {n_devices}, {n_sources}{needs}")
    return 0


def _learned(plan: DevicePlan, teacher: Teacher | None, notices: list[str]) -> Bundle | None:
    """What a device has learned on this gateway before."""
    try:
        return None if teacher is None else teacher.before(plan)
    except NotAdmitted as error:
        notices.append(f"{plan.device.device_id} will learn anew: what it has learned is damaged ({error})")
        return None


def _told_window(plan: DevicePlan) -> str:
    """How long a window is, and how far windows are apart where that is known: bursts come when they come."""
    window = plan.window
    step_ns = window.hop_ns if plan.learn is None else plan.learn.step_ns(window)
    return f"{duration(window.window_ns)} every {duration(step_ns)}"


def _learning_ns(plan: DevicePlan, learn: LearnPlan) -> int:
    """How long a device learns at least, ns of running machine."""
    n = wanted_windows(plan.window.n, plan.window.hop)
    return (n - 1) * learn.step_ns(plan.window) + plan.window.window_ns


def _told_learned(plan: DevicePlan, learn: LearnPlan, bundle: Bundle | None) -> str:
    """What a device that learns scores by, or how far it is from that."""
    told = f"{learn.model_id}, learned here ({learn.feature_set})"
    if bundle is not None:
        training = bundle.manifest.training
        told += f" from {training.n_windows} windows until {rfc3339(training.end_ns)[:19]}Z"
    else:
        told += f": from {duration(_learning_ns(plan, learn))} of running, or more"
    return told if learn.fleet == learn.model_id else f"{told}, until {learn.fleet} is published"


def _plural(n: int, what: str) -> str:
    return f"{n} {what}" if n == 1 else f"{n} {what}s"


def _record(given: argparse.Namespace) -> int:
    from edge_node.recording_daemon import record
    from edge_node.running_sources import DaemonFailed

    config = load_config(given.config, need_models=False)
    set_up_logging(config.gateway.log_level, config.gateway.log_format)
    try:
        done = asyncio.run(record(config, given.output, for_s=given.for_s))
    except DaemonFailed as error:
        print(f"edge-node: {error}", file=sys.stderr)
        return FAILED
    left_out = f"dropped {done.dropped}" + (f", refused messages: {done.refused}" if done.refusals else "")
    if not done.n_values:
        print(f"edge-node: nothing was recorded: {done.why_nothing} ({left_out})", file=sys.stderr)
        return FAILED
    print(f"wrote {done.n_values} values to {given.output}, {left_out}")
    return 0


def _add_config(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "-c",
        "--config",
        type=Path,
        required=True,
        metavar="FILE",
        help="gateway.toml (see examples/gateway.toml)",
    )


if __name__ == "__main__":
    raise SystemExit(main())
