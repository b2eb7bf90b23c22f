"""docs/messages.md tells every field of every message, and no other."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from models.backtest import Backtest, Side
from models.messages import (
    Alert,
    Contribution,
    Delivery,
    DeviceStateMessage,
    ModelState,
    Response,
    ScoreReply,
    ScoreRequest,
    Status,
    Summary,
)

PAGE = (Path(__file__).parents[1] / "docs" / "messages.md").read_text()
SECTIONS = dict(re.findall(r"^## `([^`]+)`[^\n]*\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL))


def wire_names(kind: type[msgspec.Struct]) -> list[str]:
    return [field.encode_name for field in msgspec.structs.fields(kind)]


@pytest.mark.parametrize(
    ("section", "kind"),
    [
        ("alert/{device}", Alert),
        ("summary/{device}", Summary),
        ("device/{device}/state", DeviceStateMessage),
        ("model/{model_id}", ModelState),
        ("status", Status),
        ("response/{name}", Response),
        ("score/request", ScoreRequest),
        ("score/response", ScoreReply),
        ("backtest", Backtest),
    ],
)
def test_every_field_has_a_line(section: str, kind: type[msgspec.Struct]) -> None:
    told = [
        name
        for row in re.findall(r"^\| (`[^|]*) \|", SECTIONS[section], re.MULTILINE)
        for name in re.findall(r"`([^`]+)`", row)
    ]
    assert sorted(told) == sorted(wire_names(kind))


def test_what_is_within_an_alert_is_told() -> None:
    for name in (*wire_names(Contribution), *wire_names(Delivery)):
        assert f"`{name}`" in SECTIONS["alert/{device}"]


def test_what_either_model_made_of_it_is_told() -> None:
    for name in wire_names(Side):
        assert f"`{name}`" in SECTIONS["backtest"]
