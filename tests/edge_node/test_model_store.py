"""Bundles that may be used, and every reason to refuse one."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edge_node.inference import Engine
from edge_node.model_store import (
    MANIFEST_NAME,
    MAX_MANIFEST_BYTES,
    BundleRefused,
    RefusalReason,
    check_device,
    check_golden,
    load_bundle,
)
from models import manifest as manifests
from models.messages import pack_floats, unpack_floats
from models.signal import Channel, Device, Mode, WindowSpec
from tests.fixtures.bundle_files import BUNDLE, artifact, restate

pytestmark = pytest.mark.tflite_runtime

Json = dict[str, Any]
Edit = Callable[[Json], None]


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return Path(shutil.copytree(BUNDLE, tmp_path / "bundle"))


def edit_manifest(bundle: Path, edit: Edit) -> None:
    file = bundle / MANIFEST_NAME
    tree = json.loads(file.read_bytes())
    edit(tree)
    file.write_text(json.dumps(tree))


def replace_artifact(bundle: Path, index: int, data: bytes) -> None:
    """Puts ``data`` in place of an artifact, with the digest that goes with it."""

    def edit(tree: Json) -> None:
        entry = tree["artifacts"][index]
        (bundle / entry["file"]).write_bytes(data)
        entry["sha256"], entry["n_bytes"] = hashlib.sha256(data).hexdigest(), len(data)

    edit_manifest(bundle, edit)


def refused(bundle: Path, reason: RefusalReason, text: str, **options: Any) -> BundleRefused:
    with pytest.raises(BundleRefused, match=text) as caught:
        load_bundle(bundle, **options)
    assert caught.value.reason is reason, caught.value
    assert str(caught.value.file) in str(caught.value)
    return caught.value


def test_a_good_bundle(bundle: Path) -> None:
    loaded = load_bundle(bundle)
    assert loaded.manifest.model_id == "fixture"
    assert set(loaded.artifacts) == {"cpu-float32", "cpu-int8", "edgetpu-int8"}
    assert loaded.artifacts["cpu-int8"] == artifact("cpu-int8")
    assert loaded.facts["cpu-float32"].input.shape == (-1, 10)
    assert loaded.path == bundle
    assert not loaded.signed


def test_golden_vectors_of_the_edge_tpu(bundle: Path, fake_edgetpu: str) -> None:
    loaded = load_bundle(bundle)
    engine = Engine(loaded.manifest, loaded.artifacts, device="edgetpu", delegate_library=fake_edgetpu)
    check_golden(loaded, engine)
    off = msgspec.structs.replace(loaded.manifest.artifacts[2].golden[0], score=99.0)
    broken = msgspec.structs.replace(loaded.manifest.artifacts[2], golden=(off,))
    artifacts = (*loaded.manifest.artifacts[:2], broken)
    manifest = msgspec.structs.replace(loaded.manifest, artifacts=artifacts)
    engine = Engine(manifest, loaded.artifacts, device="edgetpu", delegate_library=fake_edgetpu)
    with pytest.raises(BundleRefused, match="score differs"):
        check_golden(loaded, engine)


def test_no_bundle_there(tmp_path: Path) -> None:
    refused(tmp_path / "nothing", RefusalReason.UNREADABLE, "No such file")
    (tmp_path / "file").write_text("{}")
    refused(tmp_path / "file", RefusalReason.UNREADABLE, "Not a directory")
    (tmp_path / "odd" / MANIFEST_NAME).mkdir(parents=True)
    refused(tmp_path / "odd", RefusalReason.UNREADABLE, "Is a directory")


@pytest.mark.parametrize("data", [b"{}", b"[1]", b"null", b'{"format": 1}'])
def test_no_manifest(bundle: Path, data: bytes) -> None:
    (bundle / MANIFEST_NAME).write_bytes(data)
    error = refused(bundle, RefusalReason.BAD_MANIFEST, "not a model manifest.*Train the model again")
    assert "Copy" not in str(error)


@pytest.mark.parametrize("data", [b"", b"\xff\xfe", bytes(4096), b'{"format": "one"', b"{} {"])
def test_a_manifest_that_is_not_json_was_not_copied_whole(bundle: Path, data: bytes) -> None:
    (bundle / MANIFEST_NAME).write_bytes(data)
    error = refused(bundle, RefusalReason.CORRUPT, "not JSON.*the copy is incomplete. Copy the bundle again")
    assert "Train" not in str(error)


def test_a_manifest_cut_anywhere(bundle: Path) -> None:
    file = bundle / MANIFEST_NAME
    data = file.read_bytes()
    for n in range(0, len(data) - 2, 997):
        file.write_bytes(data[:n])
        refused(bundle, RefusalReason.CORRUPT, "the copy is incomplete. Copy the bundle again")


def test_a_manifest_beyond_all_bounds(bundle: Path) -> None:
    with (bundle / MANIFEST_NAME).open("ab") as stream:
        stream.truncate(MAX_MANIFEST_BYTES + 1)
    refused(bundle, RefusalReason.BAD_MANIFEST, "more than 16777216 bytes")


def test_a_file_that_is_missing(bundle: Path) -> None:
    (bundle / "cpu-int8.tflite").unlink()
    error = refused(bundle, RefusalReason.UNREADABLE, "No such file")
    assert error.file.name == "cpu-int8.tflite"


def test_a_truncated_model(bundle: Path) -> None:
    file = bundle / "cpu-float32.tflite"
    file.write_bytes(file.read_bytes()[:-1])
    refused(bundle, RefusalReason.CORRUPT, r"\(1247 bytes, not 1248\). Copy the bundle again")


def test_a_longer_model(bundle: Path) -> None:
    with (bundle / "cpu-float32.tflite").open("ab") as stream:
        stream.write(bytes(10_000))
    refused(bundle, RefusalReason.CORRUPT, r"\(more than 1248 bytes\). Copy the bundle again")


def test_every_flipped_bit_is_seen(bundle: Path) -> None:
    file = bundle / "cpu-int8.tflite"
    data = file.read_bytes()
    for at in range(0, len(data), 61):
        file.write_bytes(data[:at] + bytes([data[at] ^ 1 << at % 8]) + data[at + 1 :])
        refused(bundle, RefusalReason.CORRUPT, r"describes \(SHA-256 [0-9a-f]{12}…, not [0-9a-f]{12}…\)")


def test_a_malformed_graph_with_the_right_digest(bundle: Path) -> None:
    replace_artifact(bundle, 0, artifact("cpu-float32")[:-40])
    refused(bundle, RefusalReason.BAD_GRAPH, "not a graph that may be run: malformed")


def test_an_edge_tpu_graph_as_a_cpu_artifact(bundle: Path) -> None:
    replace_artifact(bundle, 1, artifact("edgetpu-int8"))
    refused(bundle, RefusalReason.BAD_GRAPH, "edgetpu-custom-op")


def test_a_graph_of_another_shape(bundle: Path) -> None:
    replace_artifact(bundle, 1, artifact("static-int8"))
    refused(bundle, RefusalReason.WRONG_SCHEMA, r"maps int8 \(1, 10\).*batch None")


def test_other_weights_than_the_golden_vectors_saw(bundle: Path) -> None:
    data = bytearray(artifact("cpu-float32"))
    at = data.index(b"\xa0\x00\x00\x00", 100) + 4  # the first weights: 160 bytes
    weights = np.frombuffer(bytes(data[at : at + 160]), "<f4")
    data[at : at + 160] = (weights * np.float32(1.01)).tobytes()
    replace_artifact(bundle, 0, bytes(data))
    refused(bundle, RefusalReason.GOLDEN_MISMATCH, "golden vector 0.*output differs by")


def golden(tree: Json, index: int = 0) -> Json:
    entry: Json = tree["artifacts"][index]["golden"][0]
    return entry


def test_golden_features_that_do_not_come_out(bundle: Path) -> None:
    def edit(tree: Json) -> None:
        window = unpack_floats(golden(tree)["window"], (20, 2))
        window[3, 1] += 0.5
        golden(tree)["window"] = pack_floats(window)

    edit_manifest(bundle, edit)
    refused(bundle, RefusalReason.GOLDEN_MISMATCH, "features differs by")


def test_a_golden_score_that_does_not_come_out(bundle: Path) -> None:
    edit_manifest(bundle, lambda tree: golden(tree).update(score=golden(tree)["score"] * 1.01))
    refused(bundle, RefusalReason.GOLDEN_MISMATCH, "makes the score of a golden vector")


def test_int8_may_differ_by_a_few_steps_and_no_more(bundle: Path) -> None:
    step = load_bundle(bundle).facts["cpu-int8"].output.scale

    def shift(steps: float) -> Edit:
        def edit(tree: Json) -> None:
            output = unpack_floats(golden(tree, 1)["output"], (10,))
            output[0] += np.float32(steps * step)
            golden(tree, 1)["output"] = pack_floats(output)
            restate(tree, 1)

        return edit

    edit_manifest(bundle, shift(3.5))
    load_bundle(bundle)
    edit_manifest(bundle, shift(1.5))
    refused(bundle, RefusalReason.GOLDEN_MISMATCH, "golden vector 0.*cpu-int8.*output differs")


def scaled(path: str, factor: float) -> Edit:
    """Multiplies the number, or all of the list, at ``path`` ("artifacts.0.score")."""

    def edit(tree: Json) -> None:
        *way, last = [int(key) if key.isdigit() else key for key in path.split(".")]
        at: Any = tree
        for key in way:
            at = at[key]
        at[last] = [x * factor for x in at[last]] if isinstance(at[last], list) else at[last] * factor

    return edit


@pytest.mark.parametrize(
    ("path", "factor", "text"),
    [
        ("normalisation.centre", 1.01, "normalisation"),
        ("normalisation.centre.0", 1.01, "normalisation"),
        ("normalisation.scale", 1.01, "normalisation makes input 0 of a golden vector of cpu-float32"),
        ("normalisation.scale.9", 0.9, "normalisation makes input 9"),
        ("normalisation.start_centre.0", 3.0, "start_centre is further from the centre"),
        ("artifacts.0.residual_scale", 1.01, "residual_scale of cpu-float32 makes the score"),
        ("artifacts.1.residual_scale", 0.99, "residual_scale of cpu-int8 makes the score"),
        ("artifacts.0.calibration.log_p", 3.0, "calibration of cpu-float32"),
        ("artifacts.1.calibration.log_p", 1.05, "calibration of cpu-int8"),
        ("artifacts.2.calibration.knots", 2.0, "calibration of edgetpu-int8 gives a golden score of"),
        ("artifacts.0.calibration.tail_shape", 0.01, "calibration of cpu-float32 states tail_shape"),
        ("artifacts.0.golden.0.log_p", 1.01, "calibration of cpu-float32 gives"),
        ("artifacts.0.golden.0.tolerance", 1e3, "tolerance of a golden vector of cpu-float32 is 0.1, not"),
        ("artifacts.2.golden.1.tolerance", 0.0, "tolerance of a golden vector of edgetpu-int8 is 0, not"),
    ],
)
def test_a_number_that_was_damaged(bundle: Path, path: str, factor: float, text: str) -> None:
    edit_manifest(bundle, scaled(path, factor))
    refused(bundle, RefusalReason.GOLDEN_MISMATCH, text)


def test_golden_vectors_without_inputs_and_p_value(bundle: Path) -> None:
    edit_manifest(bundle, lambda tree: golden(tree).pop("log_p"))
    refused(bundle, RefusalReason.BAD_MANIFEST, "missing required field `log_p`")


@pytest.mark.parametrize("what", ["window", "output", "features", "inputs"])
def test_golden_numbers_that_are_nan(bundle: Path, what: str) -> None:
    size = {"window": 40}.get(what, 10)
    edit_manifest(bundle, lambda tree: golden(tree).update({what: pack_floats(np.full(size, np.nan))}))
    refused(bundle, RefusalReason.GOLDEN_MISMATCH, "not finite")


@pytest.mark.parametrize(
    ("edit", "reason", "text"),
    [
        (
            lambda t: golden(t).update(window="AAAA"),
            RefusalReason.WRONG_SCHEMA,
            "it has 3 bytes, which are no",
        ),
        (lambda t: golden(t).update(window="%%"), RefusalReason.WRONG_SCHEMA, "it is not base64"),
        (
            lambda t: t["window"].update(n=21),
            RefusalReason.WRONG_SCHEMA,
            "does not fit the window of 21 samples and 2 channels: it has 40 numbers, not 21 x 2. Copy",
        ),
        (lambda t: golden(t).update(output="AAAAAA=="), RefusalReason.GOLDEN_MISMATCH, "output has"),
        (lambda t: t["artifacts"][0].update(golden=[]), RefusalReason.BAD_MANIFEST, "no golden vector"),
        (lambda t: t.update(schema_id="0" * 16), RefusalReason.WRONG_SCHEMA, "states schema 0000"),
        (lambda t: t["features"].update(version=99), RefusalReason.WRONG_SCHEMA, "cannot be computed here"),
        (lambda t: t["channels"][0].update(name="Other"), RefusalReason.WRONG_SCHEMA, "states schema"),
        (lambda t: t["window"].update(hop=7), RefusalReason.WRONG_SCHEMA, "states schema"),
        (lambda t: t["window"].update(n=10**12), RefusalReason.WRONG_SCHEMA, "does not fit the window of"),
        (lambda t: t["normalisation"]["scale"].pop(), RefusalReason.BAD_MANIFEST, "10 finite numbers"),
        (
            lambda t: t["normalisation"]["scale"].__setitem__(0, 0.0),
            RefusalReason.BAD_MANIFEST,
            "must be positive",
        ),
        (
            lambda t: t["artifacts"][1]["residual_scale"].__setitem__(0, -1.0),
            RefusalReason.BAD_MANIFEST,
            "residual_scale of cpu-int8 must be positive",
        ),
        (lambda t: t.update(artifacts=[]), RefusalReason.BAD_MANIFEST, "no artifact"),
        (lambda t: t["artifacts"].append(t["artifacts"][0]), RefusalReason.BAD_MANIFEST, "two artifacts"),
        (
            lambda t: t["artifacts"][0].update(file="../bundle/cpu-float32.tflite"),
            RefusalReason.BAD_MANIFEST,
            "plain name",
        ),
        (lambda t: t["artifacts"][0].update(file=".."), RefusalReason.BAD_MANIFEST, "plain name"),
        (lambda t: t["artifacts"][0].update(file="a\0.tflite"), RefusalReason.BAD_MANIFEST, "plain name"),
        (lambda t: t["artifacts"][0].update(n_bytes=-2), RefusalReason.BAD_MANIFEST, "-2 bytes"),
        (lambda t: t["artifacts"][0].update(n_bytes=10**12), RefusalReason.BAD_MANIFEST, "bytes, not 1"),
        (lambda t: t["artifacts"][0].update(dtype="int8"), RefusalReason.WRONG_SCHEMA, "maps float32"),
        (lambda t: t.update(surprise=1), RefusalReason.BAD_MANIFEST, "unknown field `surprise`"),
    ],
)
def test_a_manifest_that_contradicts_itself(
    bundle: Path, edit: Edit, reason: RefusalReason, text: str
) -> None:
    edit_manifest(bundle, edit)
    refused(bundle, reason, text)


def sign(bundle: Path, key: Ed25519PrivateKey) -> None:
    file = bundle / MANIFEST_NAME
    file.write_bytes(manifests.encode(manifests.sign(manifests.decode(file.read_bytes()), key)))


def test_a_signed_bundle(bundle: Path) -> None:
    key = Ed25519PrivateKey.generate()
    sign(bundle, key)
    assert load_bundle(bundle, (key.public_key(),), require_signature=True).signed
    assert load_bundle(bundle, (key.public_key(),)).signed
    assert not load_bundle(bundle).signed


def test_a_signature_that_does_not_hold(bundle: Path) -> None:
    key = Ed25519PrivateKey.generate()
    trusted = (key.public_key(),)
    refused(bundle, RefusalReason.NOT_TRUSTED, "not signed", trusted=trusted, require_signature=True)
    refused(bundle, RefusalReason.NOT_TRUSTED, "not signed", require_signature=True)
    sign(bundle, Ed25519PrivateKey.generate())
    refused(bundle, RefusalReason.NOT_TRUSTED, "not trusted here", trusted=trusted)
    sign(bundle, key)
    edit_manifest(bundle, lambda tree: tree.update(version=2))
    refused(bundle, RefusalReason.NOT_TRUSTED, "does not hold", trusted=trusted)


DEVICE = Device(
    device_id="press-4",
    machine="press",
    mode=Mode.IRREGULAR,
    channels=(Channel(name="Temperature", unit="°C"), Channel(name="Pressure", unit="bar")),
)
WINDOW = WindowSpec(n=20, hop=10, rate_hz=Fraction(1), mode=Mode.IRREGULAR, n_fast=5)


def test_the_device_it_was_trained_for(bundle: Path) -> None:
    check_device(load_bundle(bundle), DEVICE, WINDOW)


@pytest.mark.parametrize(
    ("channels", "window", "text"),
    [
        (DEVICE.channels, {"n": 30}, "trained with window 20, device press-4 has 30"),
        (DEVICE.channels, {"hop": 5}, "hop 10, device press-4 has 5"),
        (DEVICE.channels, {"rate_hz": Fraction(2)}, "rate_hz 1, device press-4 has 2"),
        (DEVICE.channels, {"mode": Mode.BURST}, "mode irregular, device press-4 has burst"),
        (DEVICE.channels[::-1], {}, "channels"),
        (DEVICE.channels[:1], {}, "channels"),
        ((DEVICE.channels[0], Channel(name="Pressure", unit="Pa")), {}, "Pressure.*bar.*Pa"),
        ((DEVICE.channels[0], Channel(name="Pressure", unit="bar", origin=1.0)), {}, "unit, origin and wear"),
        ((DEVICE.channels[0], Channel(name="Pressure", unit="bar", wear=True)), {}, "unit, origin and wear"),
    ],
)
def test_another_device(
    bundle: Path, channels: tuple[Channel, ...], window: dict[str, Any], text: str
) -> None:
    device = msgspec.structs.replace(DEVICE, channels=channels)
    with pytest.raises(BundleRefused, match=text) as caught:
        check_device(load_bundle(bundle), device, msgspec.structs.replace(WINDOW, **window))
    assert caught.value.reason is RefusalReason.WRONG_SCHEMA
