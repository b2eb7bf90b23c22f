"""What may stand in gateway.toml: one struct a table, its fields the keys, its defaults the defaults.

``examples/gateway.toml`` documents each of them. Paths are relative to the configuration file and absolute
once loaded; passwords are never fields, only where to read them. Ranges are the ``Meta`` of a field, and
what ``config_validation`` asks of all numbers.
"""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from edge_node.block_queue import BLOCK_SAMPLES
from edge_node.plans import MAX_BATCHES_OUT, MAX_WAITING
from edge_node.sources.payload_spec import PayloadSpec
from firmware_bridge.registers import Register
from models.alerting import AlertPolicy
from models.broker_options import (
    Broker,
    Bytes,
    Count,
    CountOrZero,
    LogFormat,
    LogLevel,
    MqttVersion,
    Name,
    NotNegative,
    Port,
    PortOrOff,
    Positive,
)
from models.features import FeatureSet
from models.logs import LogOptions
from models.sensor_checks import LimitSpec
from models.signal import Channel, Mode
from models.tflite_check import MAX_BYTES as MAX_MODEL_BYTES
from models.time_policy import TimeOptions
from models.topics import DEFAULT_PREFIX

Backend = Literal["cpu", "edgetpu", "auto"]
Precision = Literal["float32", "int8"]
Privacy = Literal["features", "statistics"]
Cloud = Literal["never", "fallback"]

MAX_WINDOW = 1 << 24  # samples: 64 MB a channel
DEVICE_LEVEL = "{device}"
CHANNEL_LEVEL = "{channel}"

Probability = Annotated[float, msgspec.Meta(gt=0, lt=1)]
Baud = Annotated[int, msgspec.Meta(ge=50, le=20_000_000)]


class Gateway(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[gateway]``: this computer."""

    name: Name
    site: Name = "default"
    log_level: LogLevel = "info"
    log_format: LogFormat = "auto"
    metrics_host: Name = "127.0.0.1"
    metrics_port: PortOrOff = 9464
    page: bool = True
    http_token_file: Path | None = None
    http_token_env: Name | None = None
    status_s: Positive = 30.0
    state_dir: Path | None = None  # see edge_node.state_dir
    checkpoint_s: Annotated[float, msgspec.Meta(ge=0.1)] = 60.0
    max_alerts_per_week: Positive | None = None
    queue_samples: Annotated[int, msgspec.Meta(ge=BLOCK_SAMPLES)] = 4_000_000
    max_waiting: Count = MAX_WAITING
    max_batches_out: Count = MAX_BATCHES_OUT
    max_requests_per_minute: Positive = 60.0
    max_requests_burst: Count = 20
    inference: Literal["process", "in_process"] = "process"
    edgetpu_library: Name = "libedgetpu.so.1"


class Uplink(Broker, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[uplink]``: the broker that alerts, summaries, states and status are published to."""

    prefix: Name = DEFAULT_PREFIX
    queue_messages: Count = 50_000
    queue_bytes: Count = 256 << 20
    queue_max_age_s: Positive = 7 * 86_400.0
    drain_per_s: Annotated[float, msgspec.Meta(ge=1)] = 200.0


class Models(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[models]``: whose models this gateway trusts, and what one must show before it is served.

    ``trusted_keys``: public keys, as base64 or as the files that hold it. With any, every model must be signed with one of
    them, and newer ones are taken from the uplink's broker; without, only what ``model`` of a device names is used.
    """

    trusted_keys: tuple[Name, ...] = ()
    max_bytes: Annotated[int, msgspec.Meta(ge=1024, le=MAX_MODEL_BYTES)] = 4 << 20
    probe_memory_mb: Annotated[int, msgspec.Meta(ge=16, le=1 << 20)] = 256
    probe_timeout_s: Annotated[float, msgspec.Meta(gt=0, le=3600)] = 30.0
    shadow_windows: Annotated[int, msgspec.Meta(ge=10, le=1_000_000)] = 120
    shadow_max_s: Positive = 86_400.0
    watch_s: NotNegative = 86_400.0
    max_latency_ms: Positive = 100.0
    cloud_deadline_ms: Annotated[float, msgspec.Meta(gt=0, le=60_000)] = 2_000.0
    backtest_max_s: Annotated[float, msgspec.Meta(gt=0, le=86_400)] = 600.0
    backtest_memory_mb: Annotated[int, msgspec.Meta(ge=64, le=1 << 20)] = 512


class MqttSubscription(PayloadSpec, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[[source.subscribe]]``: one topic filter, how its payloads are written (:class:`PayloadSpec`) and
    whose samples they are.

    ``topic`` is an MQTT filter in which ``{device}`` and ``{channel}`` may each stand for one whole level.
    The device is ``device``, else the level at ``{device}``, else the value of ``device_key``; ``devices``
    renames what was found. A payload of one channel belongs to ``channel``, else to the level at
    ``{channel}``; ``channels`` maps channel -> what it is called in the topic or the payload.
    """

    topic: Name
    qos: Literal[0, 1, 2] = 0
    device: Name | None = None
    devices: dict[str, str] = msgspec.field(default_factory=dict)  # what was found -> device id
    channel: Name | None = None

    @property
    def filter(self) -> str:
        """The MQTT subscription filter: ``topic`` with the placeholders as ``+``."""
        levels = self.topic.split("/")
        return "/".join("+" if level in (DEVICE_LEVEL, CHANNEL_LEVEL) else level for level in levels)


class MqttSource(Broker, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="mqtt"):
    """``[[source]]`` with ``type = "mqtt"``: a broker that sensors publish to."""

    name: Name = "mqtt"
    version: MqttVersion = "3.1.1"
    max_inflight: Count = 20
    session_expiry_s: Annotated[float, msgspec.Meta(ge=1, le=4_294_967_294)] = 86_400.0
    subscribe: tuple[MqttSubscription, ...] = ()


class ReplaySource(
    LogOptions, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="replay"
):
    """``[[source]]`` with ``type = "replay"``: recorded logs, played as if they were live."""

    name: Name = "replay"
    paths: tuple[Path, ...]  # files or globs
    speed: Positive | Literal["max"] = 1.0


class SerialSource(
    PayloadSpec, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="serial"
):
    """``[[source]]`` with ``type = "serial"``: a board on a serial line.

    The port is called by what it is: ``port`` (a path or a pyserial URL), ``usb_serial``, ``vid_pid``, ``by_path``,
    several to narrow it down; ``board``: only the board whose Hello has this serial number. ``protocol``: "framed"
    (docs/protocol.md), where ``channels`` maps channel -> what the board calls it; or "lines", of the format and with the
    options of :class:`PayloadSpec`.
    """

    name: Name = "serial"
    device: Name
    protocol: Literal["framed", "lines"] = "framed"
    port: Name | None = None
    usb_serial: Name | None = None
    vid_pid: Name | None = None
    by_path: Name | None = None
    board: Name | None = None
    baud: Baud = 115200
    dtr: bool | None = None
    rts: bool | None = None
    reset_on_open: bool = False
    reconnect_min_s: Positive = 0.2
    reconnect_max_s: Positive = 10.0
    max_payload_bytes: Annotated[int, msgspec.Meta(ge=1)] = 1 << 16


class ModbusRegister(Register, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[[source.register]]``: one value of a slave, and the channel that it is."""

    device: Name
    channel: Name
    slave: Annotated[int, msgspec.Meta(ge=0, le=255)]
    address: Annotated[int, msgspec.Meta(ge=0, le=65535)]


class ModbusSource(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="modbus"
):
    """``[[source]]`` with ``type = "modbus"``: slaves on a serial line (RTU; the port is called as in ``serial``) or behind
    ``host`` (TCP), asked every ``poll_s``."""

    name: Name = "modbus"
    host: Name | None = None
    tcp_port: Port = 502
    port: Name | None = None
    usb_serial: Name | None = None
    vid_pid: Name | None = None
    by_path: Name | None = None
    baud: Baud = 9600
    parity: Literal["N", "E", "O"] = "E"
    stop_bits: Literal[1, 2] = 1
    timeout_s: Annotated[float, msgspec.Meta(ge=0.001, le=60)] = 0.5
    poll_s: Annotated[float, msgspec.Meta(ge=0.001, le=86_400)] = 1.0
    register: tuple[ModbusRegister, ...] = ()


Source = MqttSource | ReplaySource | SerialSource | ModbusSource


class DeviceOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[defaults]``, and what each ``[[device]]`` may set for itself. A device's key replaces the
    default's; in the tables ``alert`` and ``time`` each key does."""

    machine: Name | None = None
    class_: str = msgspec.field(name="class", default="")
    mode: Mode | None = None
    rate_hz: Fraction | None = None
    interval_s: Annotated[float, msgspec.Meta(ge=1e-6)] | None = None
    channels: tuple[Name | Channel, ...] = ()
    unit: str = ""
    window: Annotated[int, msgspec.Meta(ge=2, le=MAX_WINDOW)] | None = None
    window_s: Positive | None = None
    hop: Annotated[int, msgspec.Meta(ge=1, le=MAX_WINDOW)] | None = None
    hop_s: Positive | None = None
    features: FeatureSet | None = None
    model: Name | None = None
    fleet_model: Name | None = None
    backend: Backend = "cpu"
    precision: Precision = "float32"
    alerts_per_week: Positive | None = None
    p_threshold: Probability | None = None
    alert: AlertPolicy = AlertPolicy()
    limit: tuple[LimitSpec, ...] = ()
    active_when: str = ""
    active_settle_s: NotNegative = 0.0
    time: TimeOptions = TimeOptions()
    privacy: Privacy = "features"
    summary_s: Positive = 300.0
    n_reservoir: CountOrZero = 16
    cloud: Cloud = "never"


class DeviceSection(DeviceOptions, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[[device]]``, merged with ``[defaults]``."""

    id: Name


class BlackBox(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[black_box]``: the raw signal of the last hours, and for longer what is around alerts, on this computer's disk."""

    enabled: bool = True
    hours: Annotated[float, msgspec.Meta(gt=0, le=100_000)] = 6.0
    max_bytes: Bytes = 2_000_000_000
    keep_days: Annotated[float, msgspec.Meta(ge=0, le=10_000)] = 30.0
    keep_bytes: CountOrZero = 2_000_000_000
    before_s: NotNegative = 60.0
    after_s: NotNegative = 60.0
    min_free_bytes: CountOrZero = 500_000_000
    flush_s: Annotated[float, msgspec.Meta(ge=0.1, le=60)] = 5.0
    queue_samples: Annotated[int, msgspec.Meta(ge=BLOCK_SAMPLES)] = 2_000_000


class FeatureLog(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[feature_log]``: features of the windows of the last weeks, on this computer's disk. It leaves free what
    ``[black_box] min_free_bytes`` says."""

    enabled: bool = True
    days: Annotated[float, msgspec.Meta(gt=0, le=4000)] = 35.0
    max_bytes: Bytes = 2_000_000_000
    flush_s: Annotated[float, msgspec.Meta(ge=0.1, le=600)] = 60.0


class Document(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole file."""

    gateway: Gateway
    uplink: Uplink | None = None
    models: Models = Models()
    black_box: BlackBox = BlackBox()
    feature_log: FeatureLog = FeatureLog()
    defaults: DeviceOptions = DeviceOptions()
    source: tuple[Source, ...] = ()
    device: tuple[DeviceSection, ...] = ()
