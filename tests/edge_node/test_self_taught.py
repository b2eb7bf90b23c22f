"""What a device has learned on its way into service, without a broker: refused, damaged, reloaded, impossible."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import numpy as np
import pytest
from structlog.testing import capture_logs

from edge_node.adoption import Adoption
from edge_node.assembly import Core, assemble
from edge_node.carry_over import carry_over
from edge_node.cli import main
from edge_node.config import load_config
from edge_node.learned_shelf import FOLDER, learned_shelf, seen
from edge_node.model_probe import ProbeFailed
from edge_node.model_record import NotAdmitted
from models.messages import ModelState
from models.refusals import RefusalReason
from models.signal import SampleBlock
from tests.edge_node.test_learning import HOP, IN_PROCESS, N_LEARN, T0_NS, WANTED, blocks, vibration, written

MODEL = "learned-press-4"


class Gateway:
    """One life of a gateway in ``folder``, on the running loop, fed as the daemon feeds it."""

    def __init__(self, folder: Path, config: Path | None = None) -> None:
        self.said: list[ModelState] = []
        self.config = load_config(config or written(folder))
        self.core: Core = assemble(self.config, on_notice=lambda text: None)
        self.models = Adoption(
            self.config, self.core, folder / "state", publish=self.said.append, now_ns=lambda: T0_NS
        )

    def feed(self, given: list[SampleBlock]) -> None:
        for block in given:
            self.core.push(block)
            self.models.push([block])
        self.models.advance(T0_NS)

    async def until(self, condition: Callable[[], object], what: str) -> None:
        deadline = time.monotonic() + 30
        while not condition():
            assert time.monotonic() < deadline, f"{what} did not happen"
            self.models.check()
            self.models.advance(T0_NS)
            await asyncio.sleep(0.02)

    async def learn(self) -> None:
        self.feed(blocks(vibration(N_LEARN + 10 * HOP), 1000))
        await self.until(lambda: self.core.models, "a model in service")


def on_a_loop(work: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(work())  # type: ignore[arg-type]


def test_windows_that_came_meanwhile_are_scored_and_it_is_said(tmp_path: Path) -> None:
    async def work() -> None:
        gateway = Gateway(tmp_path)
        gateway.feed(blocks(vibration(N_LEARN + 10 * HOP), 1000))
        assert gateway.core.pipeline.counters().n_windows_pending == 10
        await gateway.until(lambda: gateway.said, "a word")
        gateway.core.score()
        assert gateway.core.pipeline.counters().n_windows_scored == 10
        (said,) = gateway.said
        assert (said.model_id, said.state, said.version) == (MODEL, "adopted", 0)
        level = next(iter(gateway.core.plans[0].levels.values())).text()
        assert "extrapolated, verified only to" in level
        assert said.text.endswith(f"windows; alerts at {level}")
        assert gateway.models.troubles() == []
        await gateway.models.stop()

    on_a_loop(work)


def test_a_model_that_fails_the_probe_does_not_serve_and_the_device_learns_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: object, **__: object) -> None:
        raise ProbeFailed(RefusalReason.PROBE_CRASHED, "it ended by signal 11")

    async def work() -> None:
        gateway = Gateway(tmp_path)
        with monkeypatch.context() as patch:
            patch.setattr("edge_node.model_admission.probe", failing)
            gateway.feed(blocks(vibration(N_LEARN + 10 * HOP), 1000))
            await gateway.until(gateway.models.troubles, "trouble")
        assert "it ended by signal 11" in gateway.models.troubles()[0].text
        assert gateway.core.models == ()
        learn = gateway.core.plans[0].learn
        assert learn is not None
        assert seen(learned_shelf(tmp_path / "state", learn)) is None  # nor after a restart
        n = N_LEARN + 10 * HOP
        gateway.feed(blocks(vibration(N_LEARN, 1, n), 1000, n))
        await gateway.until(lambda: gateway.core.models, "a model in service")
        assert gateway.models.troubles() == []
        await gateway.models.stop()

    on_a_loop(work)


def test_a_gateway_that_is_too_busy_to_take_it_up_forgets_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def busy(_: object) -> None:
        raise NotAdmitted(RefusalReason.OVERLOADED, "there was no moment without windows in flight")

    async def work() -> None:
        gateway = Gateway(tmp_path)
        with monkeypatch.context() as patch:
            patch.setattr("edge_node.self_taught.between_windows", busy)
            gateway.feed(blocks(vibration(N_LEARN + 10 * HOP), 1000))
            await gateway.until(lambda: any("tried again" in e["event"] for e in logs), "a word")
        assert gateway.core.models == ()
        assert gateway.core.pipeline.learning()["press-4"][0] == 1.0
        await gateway.until(lambda: gateway.core.models, "a model in service")
        assert gateway.core.bundles["press-4"].manifest.training.n_windows == WANTED
        await gateway.models.stop()

    with capture_logs() as logs:
        on_a_loop(work)


def test_the_log_says_how_far_it_is_and_where_more_is_wanted(tmp_path: Path) -> None:
    n = 2 * N_LEARN
    warming = 1.0 + 2.0 * np.exp(-np.arange(n) / (0.2 * N_LEARN))

    async def work() -> None:
        gateway = Gateway(tmp_path)
        for block in blocks(vibration(n) * warming[:, None].astype(np.float32), HOP):
            gateway.feed([block])
        await gateway.models.stop()

    with capture_logs() as logs:
        on_a_loop(work)
    said = [entry["event"] for entry in logs if entry["event"].startswith("press-4: ")]
    assert said[0].startswith("press-4: it learns what is normal from its own windows: about 13 s of running")
    quarters = [text.split(":")[1].split("%")[0].strip() for text in said[1:4]]
    assert quarters == ["25", "50", "75"]
    assert "was not steady, or too much alike: about 2.6 s more are wanted" in said[4]
    assert sum("more are wanted" in text for text in said) == 1  # of a line that repeats, one a minute


def test_the_log_says_from_where_learning_goes_on(tmp_path: Path) -> None:
    async def work() -> None:
        gateway = Gateway(tmp_path)
        for block in blocks(vibration(N_LEARN // 2), 1000):
            gateway.core.push(block)
        progress = gateway.core.pipeline.learning()["press-4"][0]
        gateway.models.advance(T0_NS)
        said = next(entry["event"] for entry in logs if entry["event"].startswith("press-4: "))
        assert f"from its own windows, and has {int(100 * progress)} % of them: about " in said
        await gateway.models.stop()

    with capture_logs() as logs:
        on_a_loop(work)


def test_a_device_that_stands_still_is_told_in_one_line(tmp_path: Path) -> None:
    async def work() -> None:
        gateway = Gateway(tmp_path)
        gateway.feed(blocks(np.full_like(vibration(HOP), 6.0), 1000))
        frozen = np.full_like(vibration(N_LEARN + 10 * HOP), 6.0)
        for block in blocks(frozen[HOP:], 1000, HOP):
            gateway.feed([block])
        await gateway.until(gateway.models.troubles, "trouble")
        for _ in range(5):
            gateway.models.advance(T0_NS)
            gateway.models.check()
            await asyncio.sleep(0)
        await gateway.models.stop()

    with capture_logs() as logs:
        on_a_loop(work)
    said = [entry["event"] for entry in logs]
    assert sum("nothing ever changes" in text for text in said) == 1
    assert not any("too much alike" in text for text in said)


def test_a_new_configuration_goes_on_with_what_was_learned(tmp_path: Path) -> None:
    async def work() -> None:
        gateway = Gateway(tmp_path)
        await gateway.learn()
        again = assemble(gateway.config, on_notice=lambda text: None)
        gateway.models.take_over(gateway.config, again)
        assert carry_over(gateway.core, again, same_gateway=True) == 1
        assert [(m.model_id, m.version) for m in again.models] == [(MODEL, 0)]
        await gateway.models.stop()

    on_a_loop(work)


def test_one_that_is_damaged_on_disk_is_set_aside_and_learned_anew(tmp_path: Path) -> None:
    async def first() -> None:
        gateway = Gateway(tmp_path)
        await gateway.learn()
        await gateway.models.stop()

    async def second() -> None:
        gateway = Gateway(tmp_path)
        assert gateway.core.models == ()
        await gateway.learn()
        await gateway.models.stop()

    on_a_loop(first)
    shelf = tmp_path / "state" / FOLDER / "models" / MODEL
    (graph,) = shelf.glob("v0-*/*.tflite")
    graph.write_bytes(graph.read_bytes()[:-8] + bytes(8))
    on_a_loop(second)
    assert [p.name.startswith("damaged") for p in shelf.glob("damaged*")] == [True]


def test_a_gateway_without_what_writes_graphs_starts_with_other_models(tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "class No:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in ('sklearn', 'scipy', 'flatbuffers') or 'schema_py_generated' in name:\n"
        "            raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, No())\n"
        "import edge_node.daemon, edge_node.cli\n"
        "from edge_node.config import ConfigError, load_config\n"
        "from pathlib import Path\n"
        "try:\n"
        "    load_config(Path(sys.argv[1]))\n"
        "except ConfigError as error:\n"
        "    print(error)\n"
    )
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", program, str(written(tmp_path))],
        env={**os.environ, "PYTHONPATH": root},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "learning on the gateway needs ai-edge-litert" in done.stdout, done.stderr


def test_check_says_at_what_level_a_device_alerts_that_has_learned(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path, gateway=f'{IN_PROCESS}state_dir = "{tmp_path / "state"}"\n')

    async def work() -> None:
        gateway = Gateway(tmp_path, path)
        await gateway.learn()
        await gateway.models.stop()

    on_a_loop(work)
    assert main(["check", "-c", str(path)]) == 0
    said = capsys.readouterr().out
    told = r"learned here \(vibration\) from \d+ windows until \S+Z +1 alert a week \(score [\d.]+\), extrapolated"
    assert re.search(told, said), said


def test_a_sensor_that_never_moved_while_others_did_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path, gateway=f'{IN_PROCESS}state_dir = "{tmp_path / "state"}"\n')
    dead = vibration(N_LEARN + 10 * HOP)
    dead[:, 1] = 6.0

    async def work() -> None:
        gateway = Gateway(tmp_path, path)
        gateway.feed(blocks(dead, 1000))
        await gateway.until(lambda: gateway.core.models, "a model in service")
        await gateway.models.stop()

    with capture_logs() as logs:
        on_a_loop(work)
    told = "press-4: y never moved while this was learned"
    assert [entry["log_level"] for entry in logs if entry["event"].startswith(told)] == ["warning"]
    assert main(["check", "-c", str(path)]) == 0
    assert f"warning: {told}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("keys", "window", "warning"),
    [
        (
            'mode = "burst"\nrate_hz = 6400\ninterval_s = 60\nwindow = 4096\nmodel = "learn"',
            "0.64 s every 60 s",
            "",
        ),
        ('interval_s = 86400\nmodel = "learn"', "", "or more of running until it scores"),
        ('rate_hz = 1\nfeatures = "slow"\nmodel = "none"', "", "features of b change nothing"),
    ],
)
def test_check_says_how_windows_come_and_what_leads_nowhere(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], keys: str, window: str, warning: str
) -> None:
    path = tmp_path / "gateway.toml"
    path.write_text(f'[gateway]\nname = "h"\n[[device]]\nid = "b"\nchannels = ["x"]\n{keys}\n')
    assert main(["check", "-c", str(path)]) == 0
    said = capsys.readouterr().out
    assert window in said, said
    assert ("warning:" in said) == bool(warning), said
    assert warning in said, said
