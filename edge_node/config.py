"""gateway.toml as frozen values: every problem at once, each with file, line, key, value and what would be
right.

Strategy: parse (tomllib), find lines (tree-sitter), check against the structs of ``config_schema``, merge
``[defaults]`` into each device, check what no type can say, resolve names. What cannot be used is UNKNOWN to the
later steps (``config_partial``), so that one mistake is reported once and hides no other.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from edge_node.config_device_checks import check_device
from edge_node.config_devices import SPELLINGS, DeviceConfig, differences, resolve_device
from edge_node.config_models import check_models, lacks_to_take_models
from edge_node.config_schema import (
    BlackBox,
    DeviceSection,
    Document,
    FeatureLog,
    Gateway,
    Models,
    Source,
    Uplink,
)
from edge_node.config_sources import check_sources, check_uplink
from edge_node.config_trust import check_trust, trusted_key
from models.config_http import check_http
from models.config_partial import UNKNOWN, Names, Salvage, as_far_as_known, sure
from models.config_text import ConfigError as ConfigError
from models.config_text import name_tables, parse, place, report
from models.config_validation import Problem, find_problems, misspelt
from models.signal import Device, WindowSpec
from models.toml_positions import KeyPath, Positions
from models.topics import MODELS_LEVEL, check_level
from models.windowing import TimePolicy

if TYPE_CHECKING:
    from models.manifest import ModelManifest

# Options of which a device's own one replaces the other one in [defaults].
_EITHER = (
    ("alerts_per_week", "p_threshold"),
    ("window", "window_s"),
    ("hop", "hop_s"),
    ("rate_hz", "interval_s"),
)
_MERGED = ("alert", "time")


class Settled(NamedTuple):
    """A device together with its model, or with its lack of one: what the windowing needs."""

    device: Device  # channels in the model's order
    window: WindowSpec
    time: TimePolicy


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """A valid configuration. ``config_hash`` is 64 hex digits of SHA-256 over all of it but secrets: the
    same for the same settings, however they are written down."""

    path: Path
    gateway: Gateway
    uplink: Uplink | None
    models: Models
    trusted_keys: tuple[Ed25519PublicKey, ...]
    black_box: BlackBox
    feature_log: FeatureLog
    sources: tuple[Source, ...]
    devices: tuple[DeviceConfig, ...]
    config_hash: str
    lines: Positions = field(repr=False, compare=False)

    def device(self, device_id: str) -> DeviceConfig:
        """The device of that id; KeyError when there is none."""
        for device in self.devices:
            if device.device.device_id == device_id:
                return device
        raise KeyError(device_id)

    def error(self, device_id: str, key: str, value: object, text: str) -> ConfigError:
        """What is wrong with ``key`` of a device, as found out after loading, with file and line. ``value``
        None is not shown; a path is shown as it is relative to the file."""
        if isinstance(value, Path):
            base = self.path.absolute().parent
            value = str(value.relative_to(base) if value.is_relative_to(base) else value)
        return ConfigError(self._placed(device_id, (key,) if key else (), value, text), partial=True)

    def settle(self, device: DeviceConfig, manifest: ModelManifest | None) -> Settled:
        """``device`` as it runs with the model of ``manifest``, which decides on windows the config is
        silent about.

        Raises ConfigError, which lists with their lines all in which the model was made for another rate, window,
        feature set, mode, or for other channels, units or origins.
        """
        if manifest is None:
            window = device.window_without_model()
            return Settled(device.device, window, device.time_policy(device.usual_policy(window)))
        spelt = {key: next((k for k in keys if self._has(device, k)), key) for key, keys in SPELLINGS.items()}
        found = [
            self._placed(device.device.device_id, (key,), value, text)
            for key, value, text in differences(device, manifest, spelt)
        ]
        if found:
            raise ConfigError("\n".join(found), partial=True)
        channels = {c.name: c for c in device.device.channels}
        ordered = tuple(channels[name] for name in manifest.channel_names)
        own = msgspec.structs.replace(device.device, channels=ordered)
        return Settled(own, manifest.window, device.time_policy(manifest.time_policy))

    def departure(self, device: DeviceConfig, manifest: ModelManifest) -> str | None:
        """In one line, with its place, what ``device`` is told of event time that training was not; None where it is
        told nothing else, or nobody knows what training was told."""
        if manifest.time is msgspec.UNSET:
            return None
        policy = device.time_policy(manifest.time_policy)
        found = list(manifest.time.departures(policy, manifest.window.mode))
        if not found:
            return None
        trained = ", ".join(f"{name} = {own:g}" for name, _, own in found)
        text = (
            f"model {manifest.model_id} version {manifest.version} was trained with {trained}: its windows are made in "
            "another way here, and may score otherwise. Leave that out to follow the model"
        )
        key, value, _ = found[0]
        return self._placed(device.device.device_id, ("time", key), value, text)

    def _placed(self, device_id: str, keys: tuple[str, ...], value: object, text: str) -> str:
        """``text`` on ``keys`` of a device as a line with its place."""
        ids = [d.device.device_id for d in self.devices]
        names: dict[KeyPath, str] = {("device", i): name for i, name in enumerate(ids)}
        problem = Problem(("device", ids.index(device_id), *keys), text, value, value is not None)
        return report(self.path, [problem], self.lines, names)

    def _has(self, device: DeviceConfig, key: str) -> bool:
        path: KeyPath = ("device", self.devices.index(device), key)
        return place(path, self.lines) in self.lines


def load_config(path: Path, *, need_models: bool = True) -> Config:
    """The configuration in the TOML file ``path``; ConfigError lists everything that is wrong with it.

    ``need_models`` False accepts models that are not there yet (for ``edge-node record``, which makes models possible).
    """
    raw, lines = parse(path, "[gateway] and at least one [[device]]")
    base = path.absolute().parent
    problems = find_problems(raw, Document)
    wrong = list(problems)
    salvage = Salvage(problems, base)
    known = _known_channels(raw)
    gateway = salvage.read(raw.get("gateway"), Gateway, ("gateway",), wrong)
    uplink = salvage.read(raw.get("uplink"), Uplink, ("uplink",), wrong)
    models = salvage.read(raw.get("models", {}), Models, ("models",), wrong)
    black_box = salvage.read(raw.get("black_box", {}), BlackBox, ("black_box",), wrong)
    feature_log = salvage.read(raw.get("feature_log", {}), FeatureLog, ("feature_log",), wrong)
    sources: dict[int, Source] = _tables(raw.get("source"), Source, "source", salvage, wrong)
    sections: dict[int, DeviceSection] = {}
    if isinstance(raw.get("defaults", {}), dict):
        merged = _inherit(raw.get("defaults", {}), raw.get("device"))
        inherited = find_problems(merged, tuple[DeviceSection, ...], ("device",))
        sections = _tables(merged, DeviceSection, "device", salvage, inherited)
    partial = bool(problems) or any(section.model for section in sections.values())

    if gateway is not None:
        problems += as_far_as_known(
            *(_check_level(gateway, key) for key in ("name", "site")),
            check_http(gateway, "gateway"),
            _check_state_dir(gateway, base),
        )
    if uplink is not None:
        problems += check_uplink(uplink)
    problems += as_far_as_known(check_trust(models, base))
    problems += check_sources(list(sources.items()), uplink, known)
    problems += _check_duplicates(raw, lines)
    if not raw.get("device") and "device" not in misspelt(raw, _keys(Document)):
        problems.append(Problem((), "[[device]] is missing: expected at least one"))
    for i, section in sections.items():
        for problem in check_device(section, known):
            problems.append(replace(problem, path=("device", i, *problem.path)))
    if "uplink" not in raw and "uplink" not in misspelt(raw, _keys(Document)):
        for i, section in sections.items():
            if section.cloud == "fallback":
                text = 'there is no [uplink] over which a sink could be asked: add one, or set "never"'
                problems.append(Problem(("device", i, "cloud"), text, section.cloud, True))
    if need_models:
        inheriting = [i for i in sections if "fleet_model" not in raw["device"][i]]
        problems += check_models(sections, inheriting, path, lacks=lacks_to_take_models(raw))
    if problems:
        raise ConfigError(report(path, problems, lines, name_tables(raw)), partial=partial)
    devices = [resolve_device(section, known, base) for section in sections.values()]
    return Config(
        path=path,
        gateway=gateway,
        uplink=uplink,
        black_box=black_box,
        feature_log=feature_log,
        models=models,
        trusted_keys=tuple(trusted_key(given, base) for given in models.trusted_keys),
        sources=tuple(sources.values()),
        devices=tuple(_share_budget(devices, gateway.max_alerts_per_week)),
        config_hash=_hash(
            base,
            (
                gateway,
                uplink,
                models,
                black_box,
                feature_log,
                list(sources.values()),
                list(sections.values()),
            ),
        ),
        lines=lines,
    )


def _tables(tables: object, kind: Any, key: str, salvage: Salvage, wrong: list[Problem]) -> dict[int, Any]:
    """What can be read of the tables of the array ``key``, by index."""
    items = tables if isinstance(tables, list) else []
    return {i: salvage.read(item, kind, (key, i), wrong) for i, item in enumerate(items)}


def _inherit(defaults: object, tables: object) -> list[Any]:
    """``[[device]]`` tables with ``[defaults]`` merged in; what is no table stays as it is."""
    items = tables if isinstance(tables, list) else []
    if not isinstance(defaults, dict):
        return items
    return [_merge(defaults, item) if isinstance(item, dict) else item for item in items]


def _merge(defaults: Mapping[str, Any], device: Mapping[str, Any]) -> dict[str, Any]:
    inherited = dict(defaults)
    burst = device.get("mode", defaults.get("mode")) == "burst"
    for pair in _EITHER:
        if any(key in device for key in pair) and not (burst and "rate_hz" in pair):
            for key in pair:
                inherited.pop(key, None)
    merged = {**inherited, **device}
    for key in _MERGED:
        if isinstance(inherited.get(key), dict) and isinstance(device.get(key), dict):
            merged[key] = {**inherited[key], **device[key]}
    return merged


def _known_channels(raw: Mapping[str, Any]) -> Names:
    """Channel names by device id, of every device that has both, whatever else is wrong with it."""
    known = Names()
    tables = raw.get("device", [])
    known.complete = isinstance(tables, list) and "device" not in misspelt(raw, _keys(Document))
    for table in _inherit(raw.get("defaults"), tables):
        if not isinstance(table, dict) or not isinstance(table.get("id"), str):
            known.complete = False
            continue
        channels = table.get("channels", None if "channels" in misspelt(table, _keys(DeviceSection)) else [])
        names = UNKNOWN
        if isinstance(channels, list):
            listed = tuple(c.get("name") if isinstance(c, dict) else c for c in channels)
            names = listed if all(isinstance(name, str) for name in listed) else UNKNOWN
        known.setdefault(table["id"], names)
    return known


def _keys(struct: type[msgspec.Struct]) -> list[str]:
    return [field.encode_name for field in msgspec.structs.fields(struct)]


def _check_level(gateway: Gateway, key: str) -> Iterator[Problem]:
    value = sure(getattr(gateway, key))
    try:
        check_level(value, key)
    except ValueError as error:
        yield Problem(("gateway", key), str(error), value, True)
    if (key, value) == ("site", MODELS_LEVEL):
        yield Problem(
            ("gateway", key), "models are published there, beside the sites: choose another name", value, True
        )


def _check_state_dir(gateway: Gateway, base: Path) -> Iterator[Problem]:
    given = sure(gateway.state_dir)
    if given is not None and (base / given).exists() and not (base / given).is_dir():
        yield Problem(("gateway", "state_dir"), "that is a file: name a directory", str(given), True)


def _check_duplicates(raw: Mapping[str, Any], lines: Positions) -> Iterator[Problem]:
    first: dict[str, int] = {}
    for path, name in name_tables(raw).items():
        i = path[1]
        if path[0] != "device" or not isinstance(i, int):
            continue
        other = first.setdefault(name, i)
        if other != i:
            text = f"another device has this id (line {lines.line(('device', other, 'id'))})"
            yield Problem(("device", i, "id"), text, name, True)


def _share_budget(devices: list[DeviceConfig], cap: float | None) -> Iterator[DeviceConfig]:
    """``devices`` with their budgets scaled down together, so that those with a model keep within ``cap``."""
    total = sum(d.alerts_per_week or 0.0 for d in devices if d.model or d.learn)
    share = 1.0 if cap is None or total <= cap else cap / total
    for device in devices:
        budget = device.alerts_per_week
        yield device if budget is None else replace(device, alerts_per_week=budget * share)


def _hash(base: Path, parts: object) -> str:
    """SHA-256 of ``parts`` as JSON with sorted keys; paths below ``base`` count as relative to it, so that
    a folder can move. Passwords are not in the structs and so not in the hash."""

    def to_builtin(value: object) -> str:
        if isinstance(value, Path):
            return str(value.relative_to(base)) if value.is_relative_to(base) else str(value)
        return str(value)  # a Fraction

    encoder = msgspec.json.Encoder(enc_hook=to_builtin, order="deterministic")
    return hashlib.sha256(encoder.encode(parts)).hexdigest()
