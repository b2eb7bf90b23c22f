"""``edge-node plan``: how much disk and memory a configuration takes, for people and for programs."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec
from tabulate import tabulate

from edge_node.assembly import assemble
from edge_node.config import Config, load_config
from edge_node.placement import Prices, Side
from edge_node.placing import tasks
from edge_node.planning import DAY_S, Line, Plan, free_bytes, plan_of
from edge_node.state_dir import state_dir_of
from edge_node.workers import Workers
from models.cli_values import time_span
from models.codec import plain_float
from models.program_log import set_up_logging
from models.wording import size


def add(commands: Any) -> None:
    """Adds ``plan`` to the subparsers ``commands``."""
    plan = commands.add_parser(
        "plan",
        help="say how much disk and memory a configuration takes, and where its models should run",
        description="Says how much disk and memory a configuration takes, for how long it can do without its broker, and "
        "where each model should run: at the edge, in the cloud, or both, by what is measured here.",
    )
    plan.add_argument(
        "-c", "--config", type=Path, required=True, metavar="FILE", help="gateway.toml, with its models"
    )
    plan.add_argument(
        "--offline",
        type=time_span,
        default=6 * 3600.0,
        metavar="TIME",
        help="so long the broker may be away: 90m, 6h, 2d; default: 6h",
    )
    plan.add_argument(
        "--cloud",
        action="store_true",
        help="measure a sink as well: real requests go over the [uplink]; examples of the models, no data of this plant",
    )
    for option, default, what in (
        ("--price-per-gb", 1.0, "of what is sent, either way"),
        ("--price-per-million-requests", 1.0, "that a sink scores"),
        ("--price-edge-per-month", 0.0, "of what runs here for one model"),
    ):
        plan.add_argument(
            option, type=_price, default=default, metavar="P", help=f"{what}; default: {default:g}"
        )
    plan.add_argument("--json", action="store_true", help="one JSON object, in bytes and seconds")
    plan.set_defaults(act=_plan)


def _plan(given: argparse.Namespace) -> int:
    set_up_logging("info", "auto", logging.CRITICAL)  # what a connection would log, the plan says
    config = load_config(given.config)
    notices: list[str] = []
    workers = Workers()
    try:
        core = assemble(config, on_notice=notices.append, workers=workers)
        plan = plan_of(config, core, given.offline)
        prices = Prices(
            per_gb=given.price_per_gb,
            per_million_requests=given.price_per_million_requests,
            edge_per_month=given.price_edge_per_month,
        )
        found = tasks(config, core, prices, ask_cloud=given.cloud)
        plan = msgspec.structs.replace(plan, placement=found, prices=prices)
    finally:
        workers.close()
    if given.json:
        print(msgspec.json.encode(plan).decode())
        return 0
    for line in (*lines(config, plan), *placement_lines(plan)):
        print(line)
    return 0


def lines(config: Config, plan: Plan) -> Iterable[str]:
    """The plan for people."""
    off = span(plan.offline_s)
    models = f"{plan.n_models} model{'s' * (plan.n_models != 1)}"
    devices = f"{plan.n_devices} device{'s' * (plan.n_devices != 1)}"
    yield f"{config.path}: {devices}, {models}; {off} without the broker"
    yield ""
    rows = [
        (
            {"summary": "summaries", "alert": "alerts"}[line.kind],
            f"{line.n:,}",
            size(line.mean_bytes),
            size(line.disk_bytes),
            size(line.day_bytes),
            _how(line),
        )
        for line in plan.messages
    ]
    state = size(plan.state_bytes)
    rows.append(
        (
            "state",
            "",
            state,
            state,
            size(plan.state_day_bytes),
            f"every {span(plan.state_every_s)}, all devices",
        )
    )
    rows.append(("journal", "", "", size(plan.journal_bytes), "", "at most"))
    if plan.black_box_bytes:
        box = config.black_box
        how = f"at most: the last {box.hours:g} h, and {size(box.keep_bytes)} around alerts"
        rows.append(("black box", "", "", size(plan.black_box_bytes), size(plan.black_box_day_bytes), how))
    if plan.feature_log_bytes:
        how = f"at most: features of the last {config.feature_log.days:g} d"
        rows.append(
            ("feature log", "", "", size(plan.feature_log_bytes), size(plan.feature_log_day_bytes), how)
        )
    n = sum(line.n for line in plan.messages)
    rows.append(("in all", f"{n:,}", "", size(plan.disk_bytes), size(plan.day_bytes), ""))
    headers = ("", "messages", "each", f"in {off}", "written a day", "")
    yield from tabulate(
        rows, headers, tablefmt="plain", colalign=("left", *["right"] * 4, "left"), disable_numparse=True
    ).split("\n")
    yield ""
    yield f"models  {size(plan.model_bytes)} on disk"
    loaded, full = size(plan.memory_bytes), size(plan.memory_most_bytes)
    yield f"memory  {loaded} with these models loaded, {full} when the queue of samples is full"
    alarms = "alarm" if plan.alerts_per_week == 1 else "alarms"
    yield f"budget  {plan.alerts_per_week:g} false {alarms} a week, all devices together"
    if n_learn := sum(device.learn is not None for device in config.devices):
        what = "1 device makes its model" if n_learn == 1 else f"{n_learn} devices make their models"
        yield f"learn   {what} here: these figures are of the time from then on"
    place = state_dir_of(config)
    yield f"disk    {size(free_bytes(place))} free where the outbox is, {place}"
    if plan.held_s is None:
        yield "queue   none without an [uplink]"
    elif plan.held_s >= plan.offline_s:
        yield f"queue   enough for {span(plan.held_s)}; what is older then goes, by {plan.held_by}"
    else:
        yield f"queue   too small: after {span(plan.held_s)} the oldest goes, by {plan.held_by}"
        yield f"        for {off} set in [uplink] {', '.join(_remedies(config, plan))}"


def placement_lines(plan: Plan) -> Iterable[str]:
    """Where each model should run, for people."""
    prices = plan.prices
    for task in plan.placement:
        yield ""
        devices = f"{task.n_devices} device{'s' * (task.n_devices != 1)}"
        yield f"where to score {task.model_id} v{task.version}: {devices}, {task.windows_per_day:,.0f} windows a day"
        if task.in_service is not None:
            yield f"{task.in_service.text}; sizes and times are those of v{task.version}"
        rows = [_side_row("edge", task.edge), _side_row("cloud", task.cloud)]
        headers = ("", "latency", "95 % within", "bytes up", "bytes down", "cost a month", "")
        yield from tabulate(
            rows, headers, tablefmt="plain", colalign=("left", *["right"] * 5, "left"), disable_numparse=True
        ).split("\n")
        if task.cloud.remedy is not None:
            yield f"to measure a sink: {task.cloud.remedy}"
        yield f"-> {task.verdict.recommendation}: {task.verdict.reason}"
    if plan.placement:
        yield ""
        yield (
            f"cost    at {prices.per_gb:g} a GB, {prices.per_million_requests:g} a million requests and "
            f"{prices.edge_per_month:g} a month here: --price-per-gb, --price-per-million-requests, --price-edge-per-month"
        )


def _side_row(name: str, side: Side) -> tuple[str, ...]:
    known = side.latency_ms is not None and side.latency_95_ms is not None
    times = (f"{side.latency_ms:.3g} ms", f"{side.latency_95_ms:.3g} ms") if known else ("?", "?")
    what = f"{side.runs}, {side.n_measured} windows" if known else f"not measured: {side.unmeasured}"
    return (
        name,
        *times,
        f"{side.bytes_up:,.0f}",
        f"{side.bytes_down:,.0f}",
        f"{side.cost_per_month:,.2f}",
        what,
    )


def _price(text: str) -> float:
    try:
        price = plain_float(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    if not 0 <= price < 1e9:
        raise argparse.ArgumentTypeError(f"{text}: expected a price, 0 or more")
    return price


def span(seconds: float) -> str:
    """``seconds`` for people: "90 s", "6 h", "2.5 d"."""
    for unit, length in (("d", DAY_S), ("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * length or (seconds >= length and seconds % length == 0):
            return f"{seconds / length:.3g} {unit}"
    return f"{seconds:.3g} s"


def _remedies(config: Config, plan: Plan) -> Iterable[str]:
    assert config.uplink is not None
    n, n_bytes = (sum(line.n for line in plan.messages), sum(line.n_bytes for line in plan.messages))
    if n > config.uplink.queue_messages:
        yield f"queue_messages = {n:_}"
    if n_bytes > config.uplink.queue_bytes:
        yield f"queue_bytes = {n_bytes:_}"
    if plan.offline_s > config.uplink.queue_max_age_s:
        yield f"queue_max_age_s = {plan.offline_s:_.0f}"


def _how(line: Line) -> str:
    least, most = line.every_s
    every = f"every {span(least)}" + (f" to {span(most)}" if most != least else "")
    return every if line.kind == "summary" else f"{every}, were every device in alarm all the time"
