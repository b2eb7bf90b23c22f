"""The model manifest: what a model is, what it was trained on, how its scores are read, and who vouches for
it.

Invariants: a manifest is self-contained (a gateway needs it and the artifacts' bytes, nothing else); its
canonical bytes are the JSON of the struct with ``signature`` and ``key_id`` null, so signing and verifying
see the same bytes; versions of a ``model_id`` only grow.
"""

from __future__ import annotations

import base64
import hashlib
from typing import Annotated, Literal

import msgspec
import numpy as np
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from numpy.typing import NDArray

from models import codec
from models.calibration import Calibration
from models.features import FeatureSpec
from models.messages import unpack_floats
from models.recentring import RecentringSpec
from models.scoring import OutputKind
from models.sensor_checks import ChannelBaseline
from models.signal import ArtifactTarget, Channel, WindowSpec
from models.time_policy import TimePolicy, TimeTreatment, default_policy

FORMAT: Literal[1] = 1
MAX_TOLERANCE = (
    1e-3  # of golden vectors, relative; numpy's and the runtimes' own differences are a hundred times smaller
)

Floats = NDArray[np.float32]

# What a family is called on the command line and in the manifest.
Family = Literal["mahalanobis", "linear-ae", "ae", "wide-ae"]


class TrainedChannel(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A channel as the model saw it. A gateway whose channel has another unit, origin or wear flag is refused
    the model."""

    name: str
    unit: str
    origin: float
    wear: bool = False
    baseline: ChannelBaseline

    @classmethod
    def of(cls, channel: Channel, baseline: ChannelBaseline) -> TrainedChannel:
        """``channel`` and what it does when healthy."""
        return cls(
            name=channel.name,
            unit=channel.unit,
            origin=channel.origin,
            wear=channel.wear,
            baseline=baseline,
        )

    def as_channel(self) -> Channel:
        """The channel with all that the model depends on."""
        return Channel(name=self.name, unit=self.unit, origin=self.origin, wear=self.wear)


class Normalisation(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Per feature, float64[k]: ``(x - centre) / scale`` is the graph's input. ``start_centre`` is where
    re-centring stood at the end of training; it starts there and is bounded around ``centre``.
    """

    centre: tuple[float, ...]
    scale: tuple[float, ...]
    start_centre: tuple[float, ...]


class GoldenVector(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One worked example: raw window -> features -> inputs -> output -> score -> p-value, each within ``tolerance``
    (relative to the largest magnitude of what is compared, plus four quantisation steps for int8, by which runtimes
    differ), which is at most MAX_TOLERANCE.
    """

    window: str  # base64 float32[n, c]
    features: str  # base64 float32[k], before re-centring
    inputs: str  # base64 float32[k], normalised, without re-centring
    output: str  # base64 float32[k]
    score: float
    log_p: float  # natural log of the score's p-value by the artifact's calibration
    tolerance: float

    def arrays(self, n: int, c: int) -> tuple[Floats, Floats, Floats, Floats]:
        """(window float32[n, c]; features, inputs and output float32[k]); ValueError when sizes do not fit."""
        return (
            unpack_floats(self.window, (n, c)),
            unpack_floats(self.features, (-1,)),
            unpack_floats(self.inputs, (-1,)),
            unpack_floats(self.output, (-1,)),
        )


class Artifact(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One .tflite of the model. ``batch`` None: dynamic. Its calibration is of *its* scores: int8's are not
    float's.
    """

    target: ArtifactTarget
    file: str
    dtype: Literal["float32", "int8"]
    batch: int | None
    sha256: str
    n_bytes: int
    residual_scale: tuple[float, ...]
    calibration: Calibration
    golden: tuple[GoldenVector, ...]


def artifact_file(target: ArtifactTarget, sha256: str) -> str:
    """What the file of an artifact is called: after its content, so that one which a manifest names never changes."""
    return f"{target}-{sha256[:12]}.tflite"


class TrainingReport(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the model was fitted on, and what that can vouch for."""

    start_ns: int
    end_ns: int
    n_windows: int
    set_aside: dict[str, int]
    n_effective: float
    cross_fit_far: float  # share of out-of-fold healthy windows above the level of `far_level`
    far_level: float
    notes: tuple[str, ...] = ()  # e.g. why no int8 artifact was published


class Rollback(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The order to go back: the manifest that carries it takes the place of version ``takes_back``, though it is older.
    ``issued_ns``, when it was given, tells it from an order that has been carried out and is played again."""

    takes_back: Annotated[int, msgspec.Meta(ge=1)]
    issued_ns: Annotated[int, msgspec.Meta(ge=0)]


class ModelManifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """See the fields; ``schema_id`` binds features, parameters, channels and re-centring. ``time``, how training
    treated event time, is absent from older manifests, and ``rollback`` from nearly all: then it is not in the bytes
    that are signed either."""

    format: Literal[1] = FORMAT
    model_id: str
    version: int
    family: Family
    class_: str = msgspec.field(name="class", default="")
    created_ns: int
    schema_id: str
    features: FeatureSpec
    channels: tuple[TrainedChannel, ...]
    window: WindowSpec
    time: TimeTreatment | msgspec.UnsetType = msgspec.UNSET
    recentring: RecentringSpec | None
    normalisation: Normalisation
    output_kind: OutputKind
    artifacts: tuple[Artifact, ...]
    training: TrainingReport
    metrics: dict[str, float] = {}
    rollback: Rollback | msgspec.UnsetType = msgspec.UNSET
    signature: str | None = None
    key_id: str | None = None

    def artifact(self, target: ArtifactTarget) -> Artifact | None:
        """The artifact for ``target``, or None where the family's was not published."""
        return next((a for a in self.artifacts if a.target == target), None)

    @property
    def time_policy(self) -> TimePolicy:
        """How event time is treated where nothing else is said: as in training, else as suits the window."""
        usual = default_policy(self.window)
        return usual if self.time is msgspec.UNSET else self.time.over(usual)

    @property
    def channel_names(self) -> tuple[str, ...]:
        return tuple(c.name for c in self.channels)


class ManifestError(ValueError):
    """A manifest that cannot be read or is not signed by a trusted key; the text says which and why."""


class ManifestIncomplete(ManifestError):
    """Not JSON at all: not what was once written, or not the whole of it."""


def encode(manifest: ModelManifest) -> bytes:
    """Readable JSON of ``manifest``: two-space indent, newline at the end."""
    return msgspec.json.format(codec.encode(manifest), indent=2) + b"\n"


def decode(data: bytes) -> ModelManifest:
    """The manifest in ``data``; ManifestError names the field that does not fit, ManifestIncomplete where there are none."""
    try:
        return codec.decode(data, ModelManifest)
    except RecursionError as error:
        raise ManifestError("not a model manifest: it is nested too deeply") from error
    except (msgspec.DecodeError, ValueError) as error:
        try:
            msgspec.json.decode(data)
        except RecursionError:
            raise ManifestError("not a model manifest: it is nested too deeply") from error
        except (msgspec.DecodeError, ValueError) as syntax:
            raise ManifestIncomplete(f"not JSON ({syntax})") from error
        raise ManifestError(f"not a model manifest: {error}") from error


def signed_bytes(manifest: ModelManifest) -> bytes:
    """The bytes that are signed: compact JSON without signature and key id."""
    return codec.encode(msgspec.structs.replace(manifest, signature=None, key_id=None))


def key_id(key: Ed25519PublicKey) -> str:
    """First 16 hex digits of SHA-256 of the raw public key."""
    return hashlib.sha256(key.public_bytes_raw()).hexdigest()[:16]


def sign(manifest: ModelManifest, key: Ed25519PrivateKey) -> ModelManifest:
    """``manifest`` with an Ed25519 signature (RFC 8032) over :func:`signed_bytes`."""
    signature = base64.b64encode(key.sign(signed_bytes(manifest))).decode("ascii")
    return msgspec.structs.replace(manifest, signature=signature, key_id=key_id(key.public_key()))


def same_model(a: ModelManifest, b: ModelManifest) -> bool:
    """Whether both are one model, whoever signed it and whatever it takes back."""
    bare = (msgspec.structs.replace(m, rollback=msgspec.UNSET) for m in (a, b))
    return len({signed_bytes(m) for m in bare}) == 1


def digest(manifest: ModelManifest) -> str:
    """64 hex digits of SHA-256 over all of it, signature included: what tells any two manifests apart."""
    return hashlib.sha256(codec.encode(manifest)).hexdigest()


def verify(manifest: ModelManifest, trusted: tuple[Ed25519PublicKey, ...]) -> None:
    """Raises ManifestError unless one of the ``trusted`` keys signed ``manifest``."""
    if manifest.signature is None:
        raise ManifestError(f"model {manifest.model_id} version {manifest.version} is not signed")
    key = next((k for k in trusted if key_id(k) == manifest.key_id), None)
    if key is None:
        raise ManifestError(
            f"model {manifest.model_id} is signed by key {manifest.key_id}, which is not trusted here"
        )
    try:
        key.verify(base64.b64decode(manifest.signature, validate=True), signed_bytes(manifest))
    except (InvalidSignature, ValueError, OverflowError):  # of what it holds, before anything is known of it
        raise ManifestError(
            f"the signature of model {manifest.model_id} version {manifest.version} does not hold"
        ) from None


def departures(ours: ModelManifest, theirs: ModelManifest) -> list[str]:
    """What of the meaning of a feature row ``theirs`` has otherwise than ``ours``, each in a few words: what makes their
    schema_id another."""
    found = []
    ours_named, theirs_named = ours.channel_names, theirs.channel_names
    if ours_named != theirs_named:
        found.append(f"channels {', '.join(theirs_named)} instead of {', '.join(ours_named)}")
    pairs: list[tuple[str, object, object]] = [
        (name, getattr(ours.features, name), getattr(theirs.features, name))
        for name in ("set", "version", "n_fast", "n_bands")
    ]
    pairs += [
        (name, getattr(ours.window, name), getattr(theirs.window, name))
        for name in ("n", "hop", "rate_hz", "mode")
    ]
    names = {"set": "features", "version": "their version", "n": "window", "rate_hz": "rate in Hz"}
    found += [
        f"{names.get(name, name)} {other} instead of {own}" for name, own, other in pairs if own != other
    ]
    if ours.recentring != theirs.recentring:
        found.append("another re-centring")
    if ours.features.floors != theirs.features.floors and ours_named == theirs_named:
        pairs_of_floors = zip(ours_named, ours.features.floors, theirs.features.floors, strict=False)
        differing = [name for name, own, other in pairs_of_floors if own != other]
        found.append(f"other amplitude floors of {', '.join(differing) or 'its channels'}")
    return found
