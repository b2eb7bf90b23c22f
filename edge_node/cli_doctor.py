"""``edge-node doctor``: every check in turn, a line as each finds something, what to do about it below.

Every check runs on a thread of its own and has a limited time, so that none, and no driver, file system or broker that does not
answer, holds up the others. Exit codes: 0, 1 where something fails.
"""

from __future__ import annotations

import argparse
import logging
import os
import re
import shutil
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotInTime
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from edge_node.config import Config, ConfigError, load_config
from edge_node.config_schema import MqttSource
from edge_node.doctor import brokers, clock, disk, edgetpu, files, heat, ports, software
from edge_node.doctor.findings import Finding, fail, ok, shown, total
from edge_node.doctor.host import Host
from edge_node.planning import Plan, plan_of
from models.program_log import set_up_logging

FAILED = 1
OFFLINE_S = 6 * 3600.0  # that the disk should hold
QUICK_S, MODELS_S, VISIT_S = 10.0, 120.0, 2 * brokers.PATIENCE_S
_UNKNOWN_BYTES = 0  # of the largest message, where no model tells
_SHOWN_PROBLEMS = 5

Check = Callable[[], Iterable[Finding]]


@dataclass(slots=True)
class _Case:
    """What the checks have found out for those that follow."""

    config: Config | None = None
    plan: Plan | None = None
    largest_bytes: int = _UNKNOWN_BYTES


def add(commands: Any) -> None:
    """Adds ``doctor`` to the subparsers ``commands``."""
    doctor = commands.add_parser(
        "doctor",
        help="say whether this computer and a configuration are fit to run",
        description="Looks at this computer, the configuration, its models and its brokers, and says what is wrong and what "
        "to do about it. A running gateway is not disturbed. Run it as the gateway's user.",
    )
    doctor.add_argument("-c", "--config", type=Path, required=True, metavar="FILE", help="gateway.toml")
    doctor.add_argument(
        "--json", action="store_true", help="one JSON object a line: check, level, text, remedy"
    )
    doctor.set_defaults(act=_doctor)


def examine(path: Path, host: Host) -> Iterator[tuple[str, list[Finding]]]:
    """What each check is called and finds, as soon as it has found it: (name, []) before, so that one may say so."""
    case = _Case()
    for name, limit_s, check in _checks(path, host, case):
        yield name, []
        yield name, found_within(limit_s, name, begun(name, check))
    visits = [(name, begun(name, visit)) for name, visit in _visits(case)]  # all at once: each may take long
    for name, visiting in visits:
        yield name, []
        yield name, found_within(VISIT_S, name, visiting)


def begun(name: str, check: Check) -> Future[list[Finding]]:
    """What ``check`` will find, on a thread of its own."""
    found: Future[list[Finding]] = Future()

    def run() -> None:
        try:
            found.set_result(list(check()))
        except BaseException as error:  # noqa: BLE001 (a defect of ours: whoever asked is told)
            found.set_exception(error)

    threading.Thread(target=run, name=f"doctor {name}", daemon=True).start()
    return found


def found_within(limit_s: float, name: str, found: Future[list[Finding]]) -> list[Finding]:
    """What was found, or that the check does not come to an end."""
    try:
        return found.result(limit_s)
    except NotInTime:
        return [
            fail(name, f"no answer within {limit_s:g} s", "something hangs: see dmesg, and try it by itself")
        ]


def _checks(path: Path, host: Host, case: _Case) -> Iterator[tuple[str, float, Check]]:
    yield "python", QUICK_S, software.python
    yield "runtime", software.RUNTIME_S + QUICK_S, software.runtime
    yield "configuration", QUICK_S, lambda: _load(path, case)
    config = case.config
    if config is not None:
        yield "models", MODELS_S, lambda: _models(config, host, case)
    yield "edge tpu", QUICK_S, lambda: edgetpu.edge_tpu(host, config)
    yield "user", QUICK_S, lambda: files.user(host, path)
    if config is not None:
        yield "state", QUICK_S, lambda: files.state(host, config)
        yield "set aside", QUICK_S, lambda: files.set_aside(host, config)
        yield "keys", QUICK_S, lambda: files.secrets(host, config)
        yield "certificates", QUICK_S, lambda: files.certificates(host, config)
    yield "serial", QUICK_S, lambda: ports.serial(host, config)
    if config is not None:
        yield "disk", QUICK_S, lambda: disk.disk(host, config, case.plan)
    yield "clock", QUICK_S, lambda: clock.clock(host)
    yield "heat", QUICK_S, lambda: heat.heat(host)


def _visits(case: _Case) -> Iterator[tuple[str, Check]]:
    config = case.config
    if config is None:
        return
    for source in config.sources:
        if isinstance(source, MqttSource):
            yield f"source {source.name}", _visit(source)
    yield "uplink", lambda: brokers.uplink(config, case.largest_bytes)


def _visit(source: MqttSource) -> Check:
    return lambda: brokers.source(source)


def _load(path: Path, case: _Case) -> Iterator[Finding]:
    try:
        case.config = load_config(path)
    except ConfigError as error:
        remedy = f"correct it; edge-node check -c {path} lists all"
        problems = str(error).splitlines()
        for line in problems[:_SHOWN_PROBLEMS]:
            text = re.sub(rf"^{re.escape(str(path))}:( |(?=\d))", lambda m: "" if m[1] else "line ", line)
            yield fail("configuration", text, remedy if line is problems[0] else "")
        try:  # models that are not there yet keep nobody from looking at the rest
            case.config = load_config(path, need_models=False)
        except ConfigError:
            return
    else:
        devices, sources = len(case.config.devices), len(case.config.sources)
        text = f"{devices} device{'s' * (devices != 1)}, {sources} source{'s' * (sources != 1)}"
        if sources:
            yield ok("configuration", text)
        else:
            yield fail("configuration", text, "edge-node run needs a [[source]] to read from")


def _models(config: Config, host: Host, case: _Case) -> Iterator[Finding]:
    core, found = software.assembled(config, gateway_runs=files.gateway_runs(host, config))
    yield from found
    if core is not None:
        yield from software.in_service(config, core)
        case.plan = plan_of(config, core, OFFLINE_S)
        case.largest_bytes = max((line.largest_bytes for line in case.plan.messages), default=_UNKNOWN_BYTES)


def _doctor(given: argparse.Namespace) -> int:
    set_up_logging("info", "auto", logging.CRITICAL)  # what a connection would log, the findings say
    return report(examine(given.config, Host()), given.config, as_json=given.json)


def report(examination: Iterable[tuple[str, Sequence[Finding]]], path: Path, *, as_json: bool = False) -> int:
    """Prints findings as they come; the exit code."""
    tty = sys.stdout.isatty()
    colours = tty and "NO_COLOR" not in os.environ
    width = min(shutil.get_terminal_size((120, 24)).columns, 130)
    all_found: list[Finding] = []
    last = ""
    if not as_json:
        print(f"edge-node doctor, {path}\n", flush=True)
    for name, findings in examination:
        if tty and not as_json:
            print(f"\r\x1b[K  …     {name}" if not findings else "\r\x1b[K", end="", flush=True)
        for finding in findings:
            all_found.append(finding)
            if as_json:
                print(msgspec.json.encode(finding).decode(), flush=True)
                continue
            for line in shown(finding, width, colours=colours, named=finding.check != last):
                print(line, flush=True)
            last = finding.check
    if not as_json:
        print(f"\r\x1b[K\n{total(all_found)}" if tty else f"\n{total(all_found)}")
    return FAILED if any(finding.level == "fail" for finding in all_found) else 0
