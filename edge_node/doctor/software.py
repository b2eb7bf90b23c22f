"""Python, numpy, the TFLite runtime, and the models of the configuration on it."""

from __future__ import annotations

import importlib.metadata
import platform
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator

from edge_node import model_in_service
from edge_node.assembly import Core, assemble
from edge_node.config import Config, ConfigError
from edge_node.doctor.findings import Finding, fail, ok, warn
from edge_node.model_record import NotAdmitted

RUNTIME_S = 30.0  # that an interpreter has to come up

# In a process of its own: a runtime that was built for another processor ends the one that loads it.
_TRY = "from models.runtime import runtime_name; print(runtime_name())"
_INSTALL = "pip install 'linewatch[edge]'; on armv7l, with Python 3.11: 'linewatch[tflite-runtime]'"


def python() -> Iterator[Finding]:
    """Versions of what we stand on."""
    of = {name: importlib.metadata.version(name) for name in ("numpy", "linewatch")}
    text = f"{platform.python_version()} on {platform.machine()}, numpy {of['numpy']}, linewatch {of['linewatch']}"
    yield ok("python", text)


def runtime() -> Iterator[Finding]:
    """Whether a TFLite interpreter can be built."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", _TRY], capture_output=True, text=True, timeout=RUNTIME_S, check=False
        )
    except subprocess.TimeoutExpired:
        yield fail("runtime", f"the TFLite runtime does not come up within {RUNTIME_S:g} s", _INSTALL)
        return
    said = done.stderr.strip().splitlines()
    if done.returncode < 0:
        how = signal.Signals(-done.returncode).name
        text = f"the TFLite runtime ends the process that loads it ({how}): is it built for this processor?"
        yield fail("runtime", text, _INSTALL)
    elif done.returncode:
        why = said[-1].partition("RuntimeUnavailable: ")[2] if said else ""
        yield fail("runtime", why.partition(". Install one")[0] or "no TFLite runtime works", _INSTALL)
    elif falls := [line for line in said if line.startswith("falling back to")]:
        yield warn("runtime", falls[0], "repair the better one, or uninstall it")
    else:
        yield ok("runtime", f"{done.stdout.strip()}; an interpreter runs")


def assembled(config: Config, *, gateway_runs: bool = False) -> tuple[Core | None, list[Finding]]:
    """What would run, None where it would not, and what there is to say of its models: whether every bundle loads, and gives
    the scores that it should. ``gateway_runs``: one does here, which may have the Edge TPU."""
    notices: list[str] = []
    try:
        core = assemble(config, on_notice=notices.append)
    except ConfigError as error:
        return None, [_told(fail, line, config, gateway_runs) for line in str(error).splitlines()]
    found = [_told(warn, notice, config, gateway_runs) for notice in notices]
    users = {name: sum(plan.engine == name for plan in core.plans) for name in core.engines}
    for plan in core.plans:
        if plan.model is not None and plan.engine in users:
            n = users.pop(plan.engine)
            of = f"{n} device{'s' * (n != 1)}"
            backend = core.engines[plan.engine].backend
            found.append(ok("models", f"{plan.model.model_id} v{plan.model.version} for {of} on {backend}"))
    found += _learned(config, core)
    if n := sum(plan.model is None and plan.learn is None for plan in core.plans):
        without = f"{n} device{'s' * (n != 1)} without a model: limits and sensor checks only"
        found.append(ok("models", without))
    return core, found


def _learned(config: Config, core: Core) -> Iterator[Finding]:
    """What there is to say of devices that learn their model by themselves."""
    n_learned = n_yet = 0
    serving = model_in_service.in_service(config, core)
    for plan in core.plans:
        if plan.learn is None or core.teacher is None:
            continue
        if (fleet := serving.get(plan.learn.fleet)) and fleet.version:
            continue  # in_service tells
        try:
            if core.teacher.before(plan) is None:
                n_yet += 1
            else:
                n_learned += 1
        except NotAdmitted as error:
            name = plan.device.device_id
            yield warn(
                "models",
                f"what {name} has learned is damaged: {error}",
                f"{name} learns anew at the next start",
            )
    if n_yet:
        yield ok("models", f"{n_yet} device{'s' * (n_yet != 1)} whose model this gateway has yet to learn")
    if n_learned:
        yield ok("models", f"{n_learned} device{'s' * (n_learned != 1)} whose model this gateway has learned")


def in_service(config: Config, core: Core) -> Iterator[Finding]:
    """Which versions serve in place of those that the configuration names."""
    for found in model_in_service.in_service(config, core).values():
        if found.trouble is None:
            yield ok("models", found.text)
        else:
            remedy = (
                "is this the gateway's user? Else publish that version again, or a newer one: docs/models.md"
            )
            yield warn("models", found.text, remedy)


def _told(
    level: Callable[[str, str, str], Finding], said: str, config: Config, gateway_runs: bool
) -> Finding:
    text, _, rest = said.partition(". To fix it: ")
    remedy, _, instead = rest.partition(". Scoring on ")
    if instead:
        text += f"; scoring on {instead}"
    if gateway_runs and "Edge TPU" in said:
        remedy = "a gateway runs here, and an Edge TPU serves one process: stop it, then look again"
    return level("models", text, remedy or f"edge-node check -c {config.path}")
