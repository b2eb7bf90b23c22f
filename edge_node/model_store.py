"""Loading a model bundle: a directory with ``manifest.json`` and its .tflite files. Nothing in it is
believed.

In order: the manifest parses (and is signed, where that is asked for); each file has the size and SHA-256
that the manifest states; each graph passes the static check before a runtime sees it; features, window,
widths and schema agree; the manifest's own numbers agree with its golden vectors; and these come out again on this
gateway's own numpy and TFLite runtime.
The first thing that does not hold refuses the bundle with a reason and a text that names the file and what to
do.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from edge_node.golden_checks import Mismatch, check_calibration, check_numbers, check_start, check_vector
from edge_node.inference import Engine, Precision, ScoringEngine
from models import manifest as manifests
from models.features import describe, schema_id
from models.manifest import Artifact, ManifestError, ManifestIncomplete, ModelManifest
from models.refusals import RefusalReason as RefusalReason
from models.runtime import GraphUnusable, RuntimeUnavailable
from models.signal import ArtifactTarget, Device, WindowSpec
from models.tflite_check import MAX_BYTES as MAX_MODEL_BYTES
from models.tflite_check import GraphFacts, ModelRejected, check

MANIFEST_NAME = "manifest.json"
MAX_MANIFEST_BYTES = 16 << 20
_PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,200}\.tflite")


class BundleRefused(ValueError):
    """The bundle may not be used: ``reason``, the file that shows it, and a text with what to do."""

    def __init__(self, reason: RefusalReason, file: Path, detail: str) -> None:
        super().__init__(f"{file}: {detail}")
        self.reason = reason
        self.file = file
        self.detail = detail


@dataclass(frozen=True, slots=True)
class Bundle:
    """A model that may be used. ``artifacts`` and ``facts`` by target; ``signed``: by one of the trusted
    keys.
    """

    manifest: ModelManifest
    artifacts: Mapping[ArtifactTarget, bytes]
    facts: Mapping[ArtifactTarget, GraphFacts]
    path: Path
    signed: bool


def load_bundle(
    path: Path, trusted: tuple[Ed25519PublicKey, ...] = (), *, require_signature: bool = False
) -> Bundle:
    """The bundle in directory ``path``, verified; raises BundleRefused.

    A signature that is there must be of a ``trusted`` key where any are given. The golden vectors of CPU
    artifacts are checked here, those of the Edge TPU by :func:`check_golden` once its engine is built.
    """
    bundle = read_bundle(path, trusted, require_signature=require_signature)
    check_on_cpu(bundle)
    return bundle


def read_bundle(
    path: Path, trusted: tuple[Ed25519PublicKey, ...] = (), *, require_signature: bool = False
) -> Bundle:
    """As :func:`load_bundle`, but no runtime has seen a graph yet."""
    file = path / MANIFEST_NAME
    data = _read(file, MAX_MANIFEST_BYTES)
    if len(data) > MAX_MANIFEST_BYTES:
        text = f"more than {MAX_MANIFEST_BYTES} bytes. Train the model again"
        raise BundleRefused(RefusalReason.BAD_MANIFEST, file, text)
    try:
        manifest = manifests.decode(data)
    except ManifestIncomplete as error:
        text = f"{error}: the copy is incomplete. Copy the bundle again"
        raise BundleRefused(RefusalReason.CORRUPT, file, text) from error
    except ManifestError as error:
        raise BundleRefused(
            RefusalReason.BAD_MANIFEST, file, f"{error}. Train the model again, or update this gateway"
        ) from error
    signed = _verify(manifest, trusted, require_signature, file)

    def read(artifact: Artifact) -> bytes:
        return _read(path / artifact.file, artifact.n_bytes)

    return _examined(manifest, read, path, signed)


def examine(manifest: ModelManifest, blobs: Mapping[str, bytes], name: str, *, signed: bool = True) -> Bundle:
    """The bundle of ``manifest``, whose signature the caller has verified (unless it is not ``signed``), and ``blobs`` by
    SHA-256, as :func:`read_bundle` would find it in a directory called ``name``. KeyError where a blob is not there."""
    return _examined(manifest, lambda artifact: blobs[artifact.sha256], Path(name), signed=signed)


def _examined(manifest: ModelManifest, read: Callable[[Artifact], bytes], path: Path, signed: bool) -> Bundle:
    file = path / MANIFEST_NAME
    _check_schema(manifest, file)
    _check_numbers(manifest, file)
    artifacts: dict[ArtifactTarget, bytes] = {}
    facts: dict[ArtifactTarget, GraphFacts] = {}
    for artifact in manifest.artifacts:
        if artifact.target in artifacts:
            raise BundleRefused(RefusalReason.BAD_MANIFEST, file, f"two artifacts for {artifact.target}")
        model = _read_artifact(path, artifact, file, read)
        facts[artifact.target] = _check_graph(manifest, artifact, model, path / artifact.file)
        artifacts[artifact.target] = model
    return Bundle(manifest, artifacts, facts, path, signed)


def check_on_cpu(bundle: Bundle) -> None:
    """Builds an engine for every CPU artifact and runs its golden vectors; raises BundleRefused."""
    for artifact in bundle.manifest.artifacts:
        if artifact.target == "edgetpu-int8":
            continue
        precision: Precision = "int8" if artifact.dtype == "int8" else "float32"
        try:
            check_golden(bundle, Engine(bundle.manifest, bundle.artifacts, precision=precision))
        except RuntimeUnavailable as error:
            raise BundleRefused(RefusalReason.NO_RUNTIME, bundle.path, str(error)) from error
        except GraphUnusable as error:
            text = f"the TFLite runtime here refuses it ({error}). Update the runtime, or train again"
            raise BundleRefused(RefusalReason.BAD_GRAPH, bundle.path / artifact.file, text) from error


def check_device(bundle: Bundle, device: Device, window: WindowSpec) -> None:
    """Raises BundleRefused unless ``device``, windowed by ``window``, is what the model was trained on.

    Channels must agree in name, order, unit, origin and wear flag, and windows in length, hop, rate and mode.
    """
    manifest, file = bundle.manifest, bundle.path / MANIFEST_NAME
    have = [(c.name, c.unit, c.origin, c.wear) for c in device.channels]
    wanted = [(c.name, c.unit, c.origin, c.wear) for c in manifest.channels]
    trained = manifest.window
    pairs: list[tuple[str, object, object]] = [
        ("window", window.n, trained.n),
        ("hop", window.hop, trained.hop),
        ("rate_hz", window.rate_hz, trained.rate_hz),
        ("mode", window.mode, trained.mode),
        ("channels", [c[0] for c in have], [c[0] for c in wanted]),
        *(("unit, origin and wear of " + w[0], h[1:], w[1:]) for h, w in zip(have, wanted, strict=False)),
    ]
    for name, got, expected in pairs:
        if got != expected:
            text = (
                f"model {manifest.model_id} was trained with {name} {expected}, "
                f"device {device.device_id} has {got}. Change the configuration, or train a model for it"
            )
            raise BundleRefused(RefusalReason.WRONG_SCHEMA, file, text)


def check_golden(bundle: Bundle, engine: ScoringEngine) -> None:
    """Runs the golden vectors of the engine's artifact through features, graph and score; raises
    BundleRefused.

    What may differ is said in ``golden_checks``.
    """
    manifest, artifact = bundle.manifest, engine.artifact
    for i, golden in enumerate(artifact.golden):
        try:
            check_vector(manifest, artifact, golden, engine)
        except Mismatch as error:
            text = (
                f"golden vector {i} does not come out on {engine.backend}, numpy {np.__version__}: {error}. "
                "Install the versions it was trained with, or train it again"
            )
            raise BundleRefused(RefusalReason.GOLDEN_MISMATCH, bundle.path / artifact.file, text) from error


def _verify(
    manifest: ModelManifest, trusted: tuple[Ed25519PublicKey, ...], require_signature: bool, file: Path
) -> bool:
    if not require_signature and (manifest.signature is None or not trusted):
        return False
    try:
        manifests.verify(manifest, trusted)
    except ManifestError as error:
        text = f"{error}. Sign it with a key that this gateway trusts, or add its key"
        raise BundleRefused(RefusalReason.NOT_TRUSTED, file, text) from error
    return True


def _check_schema(manifest: ModelManifest, file: Path) -> None:
    # The golden windows first: they bound the window's length by bytes that are really there.
    for artifact in manifest.artifacts:
        if not artifact.golden:
            text = f"holds no golden vector for {artifact.target}. Train it again"
            raise BundleRefused(RefusalReason.BAD_MANIFEST, file, text)
        for golden in artifact.golden:
            try:
                golden.arrays(manifest.window.n, len(manifest.channels))
            except ValueError as error:
                text = (
                    f"a golden vector of {artifact.target} does not fit the window of {manifest.window.n} samples and "
                    f"{len(manifest.channels)} channels: it {error}. Copy the bundle again"
                )
                raise BundleRefused(RefusalReason.WRONG_SCHEMA, file, text) from error
    channels = tuple(c.as_channel() for c in manifest.channels)
    try:
        infos = describe(manifest.features, channels, manifest.window.rate_hz, manifest.window.n)
        schema = schema_id(manifest.features, manifest.channel_names, manifest.window, manifest.recentring)
    except ValueError as error:
        text = f"its features cannot be computed here: {error}. Update this gateway, or train again"
        raise BundleRefused(RefusalReason.WRONG_SCHEMA, file, text) from error
    if schema != manifest.schema_id:
        text = (
            f"states schema {manifest.schema_id}, but its features, channels and window make {schema}: "
            "it was edited, or written by another version. Train it again"
        )
        raise BundleRefused(RefusalReason.WRONG_SCHEMA, file, text)
    normalisation = manifest.normalisation
    lengths = {
        "normalisation.centre": normalisation.centre,
        "normalisation.scale": normalisation.scale,
        "normalisation.start_centre": normalisation.start_centre,
        **{f"residual_scale of {a.target}": a.residual_scale for a in manifest.artifacts},
    }
    for name, values in lengths.items():
        if len(values) != len(infos) or not np.isfinite(values).all():
            text = f"{name} must be {len(infos)} finite numbers, one per feature"
            raise BundleRefused(RefusalReason.BAD_MANIFEST, file, text)
        if "scale" in name and min(values) <= 0:
            raise BundleRefused(RefusalReason.BAD_MANIFEST, file, f"{name} must be positive")
    if not manifest.artifacts:
        raise BundleRefused(RefusalReason.BAD_MANIFEST, file, "names no artifact")


def _check_numbers(manifest: ModelManifest, file: Path) -> None:
    """Refuses a manifest in which a number was damaged, whatever this gateway computes."""
    try:
        check_start(manifest)
        for artifact in manifest.artifacts:
            check_calibration(artifact)
            for golden in artifact.golden:
                check_numbers(manifest, artifact, golden)
    except Mismatch as error:
        text = f"{error}: it was edited or damaged. Copy the bundle again, or train it again"
        raise BundleRefused(RefusalReason.GOLDEN_MISMATCH, file, text) from error


def _read_artifact(
    path: Path, artifact: Artifact, manifest_file: Path, read: Callable[[Artifact], bytes]
) -> bytes:
    if not _PLAIN_NAME.fullmatch(artifact.file):
        text = f"artifact file {artifact.file!r} is not a plain name.tflite"
        raise BundleRefused(RefusalReason.BAD_MANIFEST, manifest_file, text)
    if not 0 < artifact.n_bytes <= MAX_MODEL_BYTES:
        text = f"artifact {artifact.file!r} has {artifact.n_bytes} bytes, not 1 to {MAX_MODEL_BYTES}"
        raise BundleRefused(RefusalReason.BAD_MANIFEST, manifest_file, text)
    file = path / artifact.file
    model = read(artifact)
    what = ""
    if len(model) < artifact.n_bytes:
        what = f"{len(model)} bytes, not {artifact.n_bytes}"
    elif len(model) > artifact.n_bytes:
        what = f"more than {artifact.n_bytes} bytes"
    elif (digest := hashlib.sha256(model).hexdigest()) != artifact.sha256:
        what = f"SHA-256 {digest[:12]}…, not {artifact.sha256[:12]}…"
    if what:
        text = f"is not the file that the manifest describes ({what}). Copy the bundle again"
        raise BundleRefused(RefusalReason.CORRUPT, file, text)
    return model


def _check_graph(manifest: ModelManifest, artifact: Artifact, model: bytes, file: Path) -> GraphFacts:
    edge_tpu = artifact.target == "edgetpu-int8"
    try:
        facts = check(model, allow_edge_tpu=edge_tpu)
    except ModelRejected as error:
        text = f"is not a graph that may be run: {error}. Train it again"
        raise BundleRefused(RefusalReason.BAD_GRAPH, file, text) from error
    k = len(manifest.normalisation.centre)
    rows = -1 if artifact.batch is None else artifact.batch
    dtype = "float32" if artifact.target == "cpu-float32" else "int8"
    ends = (facts.input, facts.output)
    if artifact.dtype != dtype or any(e.shape != (rows, k) or e.dtype != dtype for e in ends):
        got = " to ".join(f"{e.dtype} {e.shape}" for e in ends)
        text = f"maps {got}; the manifest's {artifact.target} has {k} features and batch {artifact.batch}"
        raise BundleRefused(RefusalReason.WRONG_SCHEMA, file, text)
    return facts


def _read(file: Path, max_bytes: int) -> bytes:
    """The bytes of ``file``, at most one more than ``max_bytes`` of them."""
    try:
        with file.open("rb") as stream:
            data = stream.read(max_bytes + 1)
    except OSError as error:
        text = f"{error.strerror or error}. Give the directory that cloud-sink train wrote"
        raise BundleRefused(RefusalReason.UNREADABLE, file, text) from error
    return data
