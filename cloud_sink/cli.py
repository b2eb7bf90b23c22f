"""The command line of the sink: ``run`` gathers what gateways publish, ``gateways`` shows it, ``train`` makes a model from a
recording, ``keygen`` and ``sign`` vouch for it.

Exit codes: 0 done, 1 refused (the recording, the target), 2 called wrongly. An error is one line: what,
where, what to do.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import time
from collections.abc import Sequence
from importlib.metadata import version
from typing import TypeVar

from cloud_sink import evaluating, learning, looking, publishing, rolling, running, signing, train_options
from cloud_sink.bundle import BundleError, read_manifest
from cloud_sink.signing import NotSigned
from models.cli_values import USAGE, Parser, UsageError, labels_of, log_options_of, time_ns
from models.config_text import ConfigError
from models.keys import KeyUnusable, read_private_key
from models.labels import read_labels
from models.logs import LogError
from models.program_log import log_warnings_alone
from models.recording import log_files
from models.signal import Mode

REFUSED = 1
T = TypeVar("T")

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


def parser() -> argparse.ArgumentParser:
    """The parser of ``cloud-sink``."""
    top = Parser(
        prog="cloud-sink",
        description="Gathers what gateways publish; trains and signs the models that they run.",
    )
    top.add_argument("--version", action="version", version=f"cloud-sink {version('linewatch')}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=Parser)
    train = commands.add_parser(
        "train",
        help="make a model from a recording of healthy running",
        description=train_options.DESCRIPTION,
    )
    train_options.add(train)
    train.set_defaults(act=_train)
    signing.add(commands)
    running.add(commands)
    learning.add(commands)
    evaluating.add(commands)
    publishing.add(commands)
    rolling.add(commands)
    looking.add(commands)
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs ``cloud-sink``; returns the exit code."""
    given = parser().parse_args(arguments)
    log_warnings_alone()
    try:
        code: int = given.act(given)
        return code
    except UsageError as error:
        print(f"cloud-sink: {error}", file=sys.stderr)
        return USAGE
    except (BundleError, ConfigError, KeyUnusable, LogError, NotSigned) as error:
        print(f"cloud-sink: {error}", file=sys.stderr)
        return REFUSED
    except KeyboardInterrupt:
        print("cloud-sink: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _train(given: argparse.Namespace) -> int:
    # scikit-learn takes a second to import: --help and usage errors need not wait for it.
    from cloud_sink import training
    from cloud_sink.cutting import DatasetError, Request
    from cloud_sink.train import FitError

    like = None if given.like is None else read_manifest(given.like)
    if like is None and given.features is None:
        raise UsageError("say --features slow, vibration or telemetry, or --like a bundle")
    model_id = given.model_id or (given.out.absolute().name if like is None else like.model_id)
    if not _NAME.fullmatch(model_id):
        raise UsageError(
            f"{model_id!r} cannot be a model's name: use letters, digits, '.', '_', '-', or give --model-id"
        )
    key = None if given.key is None else read_private_key(given.key)  # before the work, not after it
    options = log_options_of(given, given.origin)
    logs = tuple(log_files(given.logs))
    request = Request(
        logs=logs,
        options=options,
        feature_set=given.features or ("slow" if like is None else like.features.set),
        n=_first(given.window, None if like is None else like.window.n),
        hop=_first(given.hop, None if like is None else like.window.hop),
        n_fast=_first(given.n_fast, 10 if like is None else like.features.n_fast),
        floors=None if like is None else like.features.floors,
        mode=Mode(given.mode) if given.mode else None,
        device=given.device,
        n_rows=given.rows,
        from_ns=time_ns("--from", given.from_, given.timezone),
        until_ns=time_ns("--until", given.until, given.timezone),
        exclude=tuple(read_labels(path, timezone=given.timezone) for path in given.exclude),
        labels=labels_of(given, options, logs),
        units=dict(given.unit),
        wear=frozenset(given.wear),
        active_when=given.active_when,
        settle_s=given.settle_s,
    )
    try:
        training.run(
            request,
            out=given.out,
            family=given.family,
            model_id=model_id,
            class_=given.class_ or ("" if like is None else like.class_),
            created_ns=time.time_ns(),
            seed=given.seed,
            recentring=_first(given.recentring, like is None or like.recentring is not None),
            edge_tpu=given.edgetpu,
            alerts_per_week=given.alerts_per_week,
            key=key,
            like=like,
        )
    except (DatasetError, FitError) as error:
        print(f"cloud-sink: {error}", file=sys.stderr)
        return REFUSED
    return 0


def _first(given: T | None, otherwise: T) -> T:
    return otherwise if given is None else given


if __name__ == "__main__":
    sys.exit(main())
