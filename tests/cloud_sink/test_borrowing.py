"""``cloud-sink learn --for``: a device that has just begun takes from the fleet what it cannot know yet."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from cloud_sink.borrowing import PRIOR_WINDOWS, fit_borrowed
from cloud_sink.cli import main
from cloud_sink.config import load_config
from cloud_sink.events import Batch, EventStore
from cloud_sink.features_store import FeatureStore
from cloud_sink.fleet import borrowed, gathered
from cloud_sink.summaries import SummaryTable
from cloud_sink.train import FitError
from edge_node.model_store import load_bundle
from models import manifest as manifests
from models.calibration import p_values
from models.manifest import ModelManifest
from models.messages import Summary, pack_floats
from models.runtime import Graph
from models.scoring import normalise, residuals, scores
from tests.cloud_sink.gateways import K, alert, label
from tests.cloud_sink.sinks import config
from tests.cloud_sink.test_fleet import MIX, fleet_of, of_rows, rows_of
from tests.cloud_sink.test_fleet_fit import options, rows_like, summaries
from tests.fixtures.bundle_files import BUNDLE

TEMPLATE = manifests.decode((BUNDLE / "manifest.json").read_bytes())
OVERLAP = TEMPLATE.window.n / TEMPLATE.window.hop
NEW = ("s1/new", "pump-9")
OFF = 2.5  # spreads, from where the fleet stands


def of_new(n: int, seed: int = 900, **more: Any) -> Summary:
    """What the device has said: ``n`` windows of one span."""
    rows = rows_like(TEMPLATE, n, seed, OFF)
    return told(rows, gateway="new", device="pump-9", class_="pump", **more)


def told(rows: NDArray[np.float64], **more: Any) -> Summary:
    (like,) = summaries(TEMPLATE, n_devices=1, n_spans=1)
    centred = rows - rows.mean(axis=0)
    return msgspec.structs.replace(
        like,
        message_id="{gateway}-{device}".format(**more),
        n=len(rows),
        mean=rows.mean(axis=0).tolist(),
        comoment=(centred.T @ centred)[np.triu_indices(rows.shape[1])].tolist(),
        reservoir=pack_floats(rows[:16]),
        **more,
    )


def others(**more: Any) -> list[Summary]:
    return [msgspec.structs.replace(s, class_="pump") for s in summaries(TEMPLATE, **more)]


def sink_of(folder: Path, said: list[Summary], batch: Batch | None = None) -> Path:
    """sink.toml beside stores that hold what gateways have said."""
    path = config(folder, 1)
    loaded = load_config(path)
    table = SummaryTable.of(said)
    FeatureStore(loaded.store.features, "s").append([table])
    store = EventStore(loaded.store.events)
    store.create()
    store.commit(batch or Batch(1, summaries=[table]))
    store.close()
    return path


def learn(folder: Path, sink: Path, *more: str) -> int:
    return main(["learn", "-c", str(sink), "--like", str(BUNDLE), "-o", str(folder / "out"), *more])


def scored(manifest: ModelManifest, graph: bytes, rows: NDArray[np.float64]) -> NDArray[np.float32]:
    artifact = manifest.artifact("cpu-float32")
    assert artifact is not None
    centre, scale = np.array(manifest.normalisation.centre), np.array(manifest.normalisation.scale)
    inputs = normalise(rows.astype(np.float32), centre, scale)
    output = Graph(graph).run(inputs)
    return scores(residuals(inputs, output, manifest.output_kind, np.array(artifact.residual_scale)))


@pytest.mark.parametrize("family", ["mahalanobis", "linear-ae"])
def test_it_is_a_model_of_where_the_device_stands(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], family: str
) -> None:
    sink = sink_of(tmp_path, [*others(n_spans=8), of_new(20)])
    assert learn(tmp_path, sink, "--for", "s1/new/pump-9", "--family", family) == 0
    said = " ".join(capsys.readouterr().out.split())
    share = 20 / (20 + PRIOR_WINDOWS * OVERLAP)
    assert "for s1/new/pump-9 alone: its centre is its own, of 20 windows" in said
    assert f"its own to {share:.0%}: 6 other devices of 6 gateways count as {OVERLAP:.0f} windows" in said
    assert (
        f"calibrated on {6 * 7 * 16} feature rows of 6 of these" in said
    )  # the first spans are what they began with
    loaded = load_bundle(tmp_path / "out").manifest  # which works out every golden vector
    assert manifests.departures(TEMPLATE, loaded) == []
    assert loaded.version == TEMPLATE.version + 1
    artifact = loaded.artifact("cpu-float32")
    assert artifact is not None
    graph = (tmp_path / "out" / artifact.file).read_bytes()
    healthy = scored(loaded, graph, rows_like(TEMPLATE, 2000, 901, OFF))
    p = p_values(artifact.calibration, healthy)
    assert np.mean(p <= 0.05) < 0.15
    odd = scored(loaded, graph, rows_like(TEMPLATE, 300, 902, OFF + 3.5))
    assert roc_auc_score([0] * 2000 + [1] * 300, np.concatenate([healthy, odd])) > 0.95
    if family == "mahalanobis":
        assert learn(tmp_path, sink) == 0  # one of the fleet, for which the new device is far off
        whole = scored(
            again := load_bundle(tmp_path / "out").manifest,
            (tmp_path / "out" / again.artifacts[0].file).read_bytes(),
            rows_like(TEMPLATE, 2000, 901, OFF),
        )
        assert np.mean(p_values(again.artifacts[0].calibration, whole) <= 0.05) > 0.5


@pytest.mark.parametrize("model_id", [TEMPLATE.model_id, "another"])
def test_re_centring_goes_on_from_where_it_was(model_id: str) -> None:
    """Of a device that ran another model, its centre is all that is known of where it stands."""
    table = SummaryTable.of([*others(n_spans=8), of_new(60, model_id=model_id)])
    none = np.zeros((0, table.k), np.float32)
    made = fit_borrowed(TEMPLATE, table, NEW, none, options(TEMPLATE)).trained.manifest.normalisation
    kept = np.allclose(made.centre, TEMPLATE.normalisation.centre)
    assert kept == (model_id == TEMPLATE.model_id)
    own = table.mean[table.gateway == "new"][0]
    assert np.allclose(made.centre, own) == (not kept)


def test_its_own_false_alarms_are_normal_to_it_and_those_of_others_are_not() -> None:
    table = SummaryTable.of([*others(n_spans=8), of_new(20)])
    k = table.k
    none = np.zeros((0, k), np.float32)
    odd = rows_like(TEMPLATE, 40, 903, OFF + 2).astype(np.float32)
    before, after = (fit_borrowed(TEMPLATE, table, NEW, rows, options(TEMPLATE)) for rows in (none, odd))
    far = [
        scored(m.trained.manifest, m.trained.artifacts["cpu-float32"], odd.astype(np.float64)).mean()
        for m in (before, after)
    ]
    assert far[1] < far[0]
    true = rows_like(TEMPLATE, 4000, 904, OFF)
    assert (np.abs(before.healthy.mean(axis=0) - true.mean(axis=0)) < true.std(axis=0)).all()  # in its place


def test_labels_of_other_devices_are_left_out_and_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = [*others(n_spans=8), of_new(20)]
    odd = pack_floats(rows_like(TEMPLATE, 3, 903, OFF + 2).astype(np.float32))
    raised = [
        alert(i, gateway=gateway, device=device, class_="pump", model_id=TEMPLATE.model_id, features=odd)
        for i, (gateway, device) in enumerate([("new", "pump-9"), ("g1", "d1"), ("gone", "d")])
    ]
    labels = [label(a.alert_id, "false_alarm", gateway=a.gateway) for a in raised]
    sink = sink_of(tmp_path, said, Batch(1, alerts=raised, responses=labels))
    assert learn(tmp_path, sink, "--for", "s1/new/pump-9") == 0
    assert (
        "1 false, normal now; 0 true, kept to test with; 2 of other devices, left out"
        in capsys.readouterr().out
    )
    assert learn(tmp_path, sink) == 0
    said_of_fleet = capsys.readouterr().out
    assert "s1/new pump-9 was left out" in said_of_fleet
    assert "1 false, normal now; 0 true, kept to test with; 2 of other devices, left out" in said_of_fleet


@pytest.mark.parametrize(
    ("said", "device", "text"),
    [
        (lambda: [*others(), of_new(20)], "s1/new/pump-8", 'no device s1/new/pump-8 is known; did you mean "s1/new/pump-9"?'),
        (lambda: [*others(), of_new(7)], "s1/new/pump-9", "s1/new/pump-9 has 7 healthy windows in its summaries, and 8"),
        (lambda: [*others(n_devices=1), of_new(20)], "s1/new/pump-9", "1 other devices have summaries to borrow from, and 2"),
        (lambda: [of_new(20)], "s1/new/pump-9", "0 other devices have summaries to borrow from, and 2 are needed"),
        (lambda: [*others(keep=0), of_new(20)], "s1/new/pump-9", "0 feature rows"),
        (lambda: [*others(n_spans=1), of_new(60)], "s1/new/pump-9", "0 feature rows came from devices that have run longer"),
    ],
)  # fmt: skip
def test_what_is_missing_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], said: Any, device: str, text: str
) -> None:
    assert learn(tmp_path, sink_of(tmp_path, said()), "--for", device) == 1
    assert text in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_device_that_has_sent_nothing_of_these_features(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    known = SummaryTable.of([of_new(20, schema_id="f" * 16)])
    sink = sink_of(tmp_path, others(), Batch(1, summaries=[known]))
    assert learn(tmp_path, sink, "--for", "s1/new/pump-9") == 1
    assert (
        "s1/new/pump-9 has no windows to learn from: it has sent no summary of class 'pump' and schema "
        f"{TEMPLATE.schema_id} of the last 30 days" in capsys.readouterr().err
    )


def test_where_no_window_is_healthy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    k = len(TEMPLATE.normalisation.centre)
    nothing = [
        msgspec.structs.replace(s, n=0, mean=[0.0] * k, comoment=[0.0] * len(s.comoment), reservoir=None)
        for s in others()
    ]
    sink = sink_of(tmp_path, nothing)
    for more in ((), ("--for", "s1/g1/d1")):
        assert learn(tmp_path, sink, *more) == 1
        said = capsys.readouterr().err
        assert re.match(
            r"cloud-sink: the 36 summaries of class 'pump' and schema \w{16} of the last 30 days count no healthy window: ",
            said,
        )
        assert "--days" in said


@pytest.mark.parametrize("text", ["g1/d1", "s1/g1/", "s1/g1/d1/x", ""])
def test_what_is_no_device(tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str) -> None:
    with pytest.raises(SystemExit) as ended:
        learn(tmp_path, tmp_path / "sink.toml", "--for", text)
    assert ended.value.code == 2
    assert f"{text!r} is not SITE/GATEWAY/DEVICE" in capsys.readouterr().err


def test_a_network_is_not_of_one_device() -> None:
    table = SummaryTable.of([*others(), of_new(20)])
    none = np.zeros((0, table.k), np.float32)
    with pytest.raises(
        FitError, match="ae is fitted on rows, and one device has too few: mahalanobis or linear-ae"
    ):
        fit_borrowed(TEMPLATE, table, NEW, none, options(TEMPLATE, family="ae"))


FLEET = gathered(SummaryTable.of(fleet_of()[0]))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 500), st.floats(0.5, 5_000.0), st.floats(0.01, 100.0))
def test_of_so_many_windows_the_fleet_lends_its_share(seed: int, n: int, worth: float, wide: float) -> None:
    own = of_rows(rows_of(n, seed) * wide)
    lent = borrowed(own, FLEET, worth=worth)
    assert np.array_equal(lent.mean, own.mean)
    share = n / (n + worth)
    assert np.allclose(lent.correlation, share * own.correlation + (1 - share) * FLEET.correlation, atol=1e-9)
    assert (lent.spread >= own.spread * (1 - 1e-9)).all()
    least = np.sqrt(share * own.spread**2 + (1 - share) * FLEET.spread**2)
    assert np.allclose(lent.spread, np.maximum(own.spread, least), rtol=1e-9)
    assert np.linalg.eigvalsh(lent.correlation).min() > -1e-9


def test_what_is_lent_is_nearer_the_truth_than_what_was_seen() -> None:
    true = MIX.T @ MIX
    errors = []
    for seed in range(20):
        own = of_rows(rows_of(9, 50 + seed))
        lent = borrowed(own, FLEET, worth=20.0)
        errors.append([np.linalg.norm(c - true) for c in (own.covariance, lent.covariance)])
    mine, theirs = np.mean(errors, axis=0)
    assert theirs < 0.7 * mine
    assert len(true) == K
