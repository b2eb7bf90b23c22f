from __future__ import annotations

import json
import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_node.sources.payloads import PACKED_HEADER, Decoder, PayloadSpec, encode_packed
from models.signal import Channel, Clock, Device, DropReason, Mode, SampleBlock

T = 1_770_000_000_000_000_000  # event time
ARRIVAL = T + 5_000_000_000

PRESS = Device(
    device_id="press-4",
    machine="press",
    rate_hz=Fraction(1000),
    channels=(Channel(name="x"), Channel(name="y"), Channel(name="z")),
)
OVEN = Device(
    device_id="oven",
    machine="oven",
    mode=Mode.IRREGULAR,
    rate_hz=Fraction(1, 10),
    channels=(Channel(name="temp"), Channel(name="humidity")),
)
AIR = Device(
    device_id="air",
    machine="air",
    mode=Mode.IRREGULAR,
    channels=(Channel(name="pressure", unit="Pa", scale=100.0, offset=5.0, origin=101_325.0),),
)
DEVICES = {d.device_id: d for d in (PRESS, OVEN, AIR)}


def decoder(device: str | None = "press-4", channel: str | None = None, **spec: Any) -> Decoder:
    return Decoder(PayloadSpec(**spec), DEVICES, device=device, channel=channel)


def one(decode: Decoder, payload: bytes | str, **topic: Any) -> SampleBlock:
    data = payload.encode() if isinstance(payload, str) else payload
    blocks, refused = decode.decode(data, ARRIVAL, **topic)
    assert refused == []
    assert len(blocks) == 1
    return blocks[0]


def refusal(decode: Decoder, payload: bytes | str, **topic: Any) -> tuple[DropReason, str]:
    data = payload.encode() if isinstance(payload, str) else payload
    blocks, refused = decode.decode(data, ARRIVAL, **topic)
    assert blocks == []
    assert len(refused) == 1
    assert "\n" not in refused[0].told
    return refused[0].reason, refused[0].told


BATCH: Any = {"time_key": "t", "rate_key": "rate_hz"}


class TestJsonBatch:
    def test_uniform(self) -> None:
        payload = {"t": T, "rate_hz": 1000, "x": [1, 2.5], "y": [3, 4], "z": [5, 6], "battery": 3.1}
        block = one(decoder(**BATCH), json.dumps(payload))
        assert (block.device_id, block.channels) == ("press-4", ("x", "y", "z"))
        assert (block.start_ns, block.rate_hz, block.arrival_ns) == (T, Fraction(1000), ARRIVAL)
        assert block.clock is Clock.DEVICE
        assert block.values.dtype == np.float32
        assert block.values.flags.c_contiguous
        assert block.values.tolist() == [[1, 3, 5], [2.5, 4, 6]]

    @pytest.mark.parametrize(
        ("spec", "extra", "rate"),
        [
            ({"rate_key": "fs"}, {"fs": "25600/3"}, Fraction(25600, 3)),
            ({"rate_key": "fs"}, {"fs": 0.1}, Fraction(1, 10)),
            ({"period_key": "dt"}, {"dt": 0.0001}, Fraction(10_000)),
            ({"period_key": "dt", "period_unit": "us"}, {"dt": 78.125}, Fraction(12_800)),
            ({"rate_hz": Fraction(500)}, {}, Fraction(500)),
            ({}, {}, Fraction(1000)),  # the device's
        ],
    )
    def test_rate(self, spec: dict[str, Any], extra: dict[str, Any], rate: Fraction) -> None:
        payload = {"t": T, "x": [1], "y": [2], "z": [3]} | extra
        assert one(decoder(time_key="t", **spec), json.dumps(payload)).rate_hz == rate

    def test_rate_of_one_device_is_not_that_of_another(self) -> None:
        decode = Decoder(PayloadSpec(), {"a": PRESS, "b": OVEN}, device=None)
        payload = '{"x": [1], "y": [1], "z": [1], "temp": [1], "humidity": [1]}'
        assert one(decode, payload, device="a").rate_hz == Fraction(1000)
        assert one(decode, payload, device="b").rate_hz == Fraction(1, 10)

    def test_without_a_time_the_last_row_is_the_arrival(self) -> None:
        block = one(decoder(), '{"x": [1, 2, 3], "y": [1, 2, 3], "z": [1, 2, 3]}')
        assert block.clock is Clock.ARRIVAL
        assert block.times().tolist() == [ARRIVAL - 2_000_000, ARRIVAL - 1_000_000, ARRIVAL]

    def test_times_of_each_row(self) -> None:
        payload = {"t": [T, T + 7], "temp": [20, 21], "humidity": [1, None]}
        block = one(decoder("oven", time_key="t"), json.dumps(payload))
        assert block.times().tolist() == [T, T + 7]
        np.testing.assert_array_equal(block.values, np.array([[20, 1], [21, np.nan]], np.float32))

    def test_rows(self) -> None:
        payload = {"head": {"t": T}, "data": [[1, 2, 3], [4, 5, 6]]}
        block = one(decoder(time_key="head.t", rows_key="data"), json.dumps(payload))
        assert block.values.tolist() == [[1, 2, 3], [4, 5, 6]]
        assert block.start_ns == T

    def test_some_of_the_channels(self) -> None:
        block = one(decoder(**BATCH), json.dumps({"t": T, "rate_hz": 1000, "x": [1, 2], "z": [3, 4]}))
        assert block.channels == ("x", "z")
        assert block.values.tolist() == [[1, 3], [2, 4]]

    @pytest.mark.parametrize("literal", ["NaN", "nan", "-Infinity", "inf", "null"])
    def test_not_finite_is_missing(self, literal: str) -> None:
        payload = f'{{"t": {T}, "rate_hz": 1000, "x": [1, {literal}], "y": [{literal},2], "z": [3, 4]}}'
        block = one(decoder(**BATCH), payload)
        np.testing.assert_array_equal(block.values, np.array([[1, np.nan, 3], [np.nan, 2, 4]], np.float32))

    def test_beyond_float32_is_missing(self) -> None:
        block = one(decoder(), '{"x": [1e39, 1], "y": [-1e300, 1], "z": [3.4e38, 3.4e38]}')
        np.testing.assert_array_equal(
            block.values, np.array([[np.nan, np.nan, 3.4e38], [1, 1, 3.4e38]], np.float32)
        )

    @pytest.mark.parametrize(
        ("payload", "text"),
        [
            ('{"t": 1, "r": 1000, "x": [1, 2], "y": [1], "z": [1, 2]}', "arrays of different lengths: x 2"),
            ('{"t": 1, "r": 1000, "x": [], "y": [], "z": []}', "the arrays are empty"),
            ('{"t": 1, "r": 0, "x": [1], "y": [1], "z": [1]}', "a rate must be positive, not 0"),
            ('{"t": 1, "r": [1], "x": [1], "y": [1], "z": [1]}', "rate is [1], expected a number of Hz"),
            ('{"t": 1, "r": 1e30, "x": [1], "y": [1], "z": [1]}', "rate is out of range"),
            ('{"t": 1, "x": [1], "y": [1], "z": [1]}', "no rate: no key 'r'"),
            ('{"r": 1000, "x": [1], "y": [1], "z": [1]}', "no time: no key 't' among 'r, x, y, z'"),
            ('{"t": "now", "r": 1000, "x": [1], "y": [1], "z": [1]}', "time is 'now', expected a"),
            ('{"t": true, "r": 1000, "x": [1], "y": [1], "z": [1]}', "time is True, expected a number of ns"),
            ('{"t": 1e300, "r": 1000, "x": [1], "y": [1], "z": [1]}', "time is out of range"),
            ('{"t": [1], "r": 1000, "x": [1, 2], "y": [1, 2], "z": [1, 2]}', "1 times for 2 rows"),
            ('{"t": 1, "r": 1000, "x": ["1"], "y": [1], "z": [1]}', "x is the text '1', expected a number"),
            ('{"t": 1, "r": 1000, "x": [[1]], "y": [1], "z": [1]}', "x is [1], expected a number"),
            ('{"t": 1, "r": 1000, "x": [1], "y": 1, "z": [1]}', "y is 1, expected an array of numbers"),
            ('{"t": 1, "r": 1000, "x": [1], "y": [1], "z": [1', "not JSON: Input data was truncated"),
            ('{"t": 1, "r": 1000, "a": [1]}', "no key of x, y, z among 't, r, a'"),
            ("[" * 100_000, "not JSON: "),
            ("[]", "an empty array"),
            ("[1, 2", "not JSON: Input data was truncated"),
            ("7", "7 in place of a JSON object"),
            ('"x"', "'x' in place of a JSON object"),
        ],
    )  # fmt: skip
    def test_bad(self, payload: str, text: str) -> None:
        reason, said = refusal(decoder(time_key="t", rate_key="r"), payload)
        assert reason is DropReason.MALFORMED
        assert said.startswith(text)

    @pytest.mark.parametrize(
        ("payload", "text"),
        [
            ('{"data": [[1, 2, 3], [4, 5]]}', "a row has 2 values, expected 3: x, y, z"),
            ('{"data": [[1, 2, 3], 4]}', "a row has 4, expected 3: x, y, z"),
            ('{"data": []}', "data is [], expected an array of rows"),
            ('{"x": [1]}', "no rows: no key 'data' among 'x'"),
        ],
    )
    def test_bad_rows(self, payload: str, text: str) -> None:
        assert refusal(decoder(rows_key="data"), payload) == (DropReason.MALFORMED, text)


class TestJsonRow:
    def test_one_row(self) -> None:
        block = one(decoder("oven", time_key="t"), f'{{"t": {T}, "temp": 21.5, "humidity": 40}}')
        assert block.times().tolist() == [T]
        assert block.values.tolist() == [[21.5, 40.0]]

    def test_nested_and_renamed_keys(self) -> None:
        spec: Any = {"time_key": "Time", "time_unit": "iso", "channels": {"temp": "AM2301.Temperature"}}
        payload = '{"Time": "2026-05-04T06:00:00Z", "AM2301": {"Temperature": 19.9}, "Uptime": 7}'
        block = one(decoder("oven", **spec), payload)
        assert block.channels == ("temp",)
        assert block.times().tolist() == [1_777_874_400 * 10**9]

    def test_an_array_of_rows_is_one_block(self) -> None:
        payload = [{"t": T + i, "temp": i, "humidity": 2 * i} for i in range(3)] + [{"t": T + 9, "temp": 9}]
        blocks, refused = decoder("oven", time_key="t").decode(json.dumps(payload).encode(), ARRIVAL)
        assert refused == []
        assert [(b.channels, b.times().tolist()) for b in blocks] == [
            (("temp", "humidity"), [T, T + 1, T + 2]),
            (("temp",), [T + 9]),
        ]

    def test_a_bad_row_leaves_the_others(self) -> None:
        payload = '[{"t": 5, "temp": 1}, {"t": 6, "temp": {}}, 3, {"temp": 1}, {"t": 7, "temp": 2}]'
        blocks, refused = decoder("oven", time_key="t").decode(payload.encode(), ARRIVAL)
        assert [b.times().tolist() for b in blocks] == [[5, 7]]
        assert [r.text for r in refused] == [
            "temp is {}, expected a number",
            "3 in place of a JSON object",
            "no time: no key 't' among 'temp'",
        ]

    def test_a_continuous_device_gets_a_uniform_block(self) -> None:
        block = one(decoder(time_key="t"), f'{{"t": {T}, "x": 1, "y": 2, "z": 3}}')
        assert (block.start_ns, block.rate_hz, block.n) == (T, Fraction(1000), 1)

    @pytest.mark.parametrize(("jitter_ns", "uniform"), [(400_000, True), (600_000, False)])
    def test_rows_on_the_rate_are_uniform(self, jitter_ns: int, uniform: bool) -> None:
        rows = [{"t": T + i * 10**6 + (i == 2) * jitter_ns, "x": i, "y": 0, "z": 0} for i in range(5)]
        block = one(decoder(time_key="t"), json.dumps(rows))
        assert (block.rate_hz is not None) is uniform
        assert block.values[:, 0].tolist() == [0, 1, 2, 3, 4]

    def test_booleans_words_and_strings(self) -> None:
        spec: Any = {"words": {"ON": 1.0, "OFF": 0.0}, "numeric_strings": True}
        block = one(decoder(**spec), '{"x": "ON", "y": true, "z": " 4.5"}')
        assert block.values.tolist() == [[1.0, 1.0, 4.5]]

    @pytest.mark.parametrize("value", ['"4.5"', '"ON"', "[1]", "{}"])
    def test_wrong_types_are_refused_by_default(self, value: str) -> None:
        rows_payload = f'{{"x": {value}, "y": 1, "z": 1}}'
        reason, text = refusal(decoder(), rows_payload)
        assert reason is DropReason.MALFORMED
        assert "expected a" in text

    def test_huge_integers(self) -> None:
        block = one(decoder(), f'{{"x": {10**400}, "y": {2**70}, "z": 1}}')
        np.testing.assert_array_equal(block.values, np.array([[np.nan, 2.0**70, 1]], np.float32))
        assert refusal(decoder(time_key="t"), f'{{"t": {10**400}, "x": 1}}')[1] == "time is out of range"

    def test_the_payload_names_the_device(self) -> None:
        decode = Decoder(PayloadSpec(device_key="src.id"), DEVICES, renames={"17": "oven"})
        rows = [
            {"src": {"id": 17}, "temp": 1},
            {"src": {"id": "press-4"}, "x": 2},
            {"src": {"id": "no"}, "x": 1},
        ]
        blocks, refused = decode.decode(json.dumps(rows).encode(), ARRIVAL)
        assert [b.device_id for b in blocks] == ["oven", "press-4"]
        assert [(r.reason, r.text) for r in refused] == [
            (DropReason.UNKNOWN_DEVICE, "no device 'no' in the configuration")
        ]

    def test_the_topic_names_device_and_channel(self) -> None:
        decode = Decoder(
            PayloadSpec(channels={"temp": "T1"}, value_key="val"), DEVICES, renames={"o": "oven"}
        )
        assert one(decode, '{"val": 3}', device="o", channel="T1").channels == ("temp",)
        assert one(decode, '{"val": 3}', device="oven", channel="humidity").channels == ("humidity",)
        reason, text = refusal(decode, '{"val": 3}', device="oven", channel="volume")
        assert reason is DropReason.UNKNOWN_CHANNEL
        assert text == "device oven has no channel 'volume': it has temp, humidity"
        assert refusal(decode, '{"val": 3}', device="kiln")[0] is DropReason.UNKNOWN_DEVICE
        assert refusal(decode, '{"val": 3}')[0] is DropReason.UNKNOWN_DEVICE


class TestTime:
    @pytest.mark.parametrize(
        ("unit", "written", "expected"),
        [
            ("ns", "1770000000123456789", 1_770_000_000_123_456_789),
            ("us", "1770000000123456", 1_770_000_000_123_456_000),
            ("ms", "1770000000123", 1_770_000_000_123_000_000),
            ("ms", "1770000000123.25", 1_770_000_000_123_250_000),
            ("s", "1770000000", 1_770_000_000_000_000_000),
            ("s", "1770000000.123457", 1_770_000_000_123_457_000),  # a double's error is rounded away
            ("iso", '"2026-02-02T02:40:00.123456789Z"', 1_770_000_000_123_456_789),
            ("iso", '"2026-02-02 03:40:00,5+01:00"', 1_770_000_000_500_000_000),
            ("iso", '"1969-12-31T23:59:59.5Z"', -500_000_000),
        ],
    )
    def test_units(self, unit: Any, written: str, expected: int) -> None:
        block = one(decoder("oven", time_key="t", time_unit=unit), f'{{"t": {written}, "temp": 1}}')
        assert block.times().tolist() == [expected]
        line = written.strip('"').replace(",", ".") + ",1,2"
        assert one(decoder("oven", format="csv", time_key="t", time_unit=unit), line).times().tolist() == [
            expected
        ]

    def test_a_time_without_offset_needs_a_zone(self) -> None:
        payload = '{"t": "2026-07-01T12:00:00", "temp": 1}'
        _, text = refusal(decoder("oven", time_key="t", time_unit="iso"), payload)
        assert "has no UTC offset: set timezone" in text
        block = one(decoder("oven", time_key="t", time_unit="iso", timezone="Europe/Berlin"), payload)
        assert block.times().tolist() == [1_782_900_000 * 10**9]  # 10:00 UTC, summer time

    def test_null_is_no_time(self) -> None:
        assert one(decoder("oven", time_key="t"), '{"t": null, "temp": 1}').clock is Clock.ARRIVAL
        block = one(decoder(**BATCH), '{"t": null, "rate_hz": 1000, "x": [1], "y": [1], "z": [1]}')
        assert (block.clock, block.start_ns) == (Clock.ARRIVAL, ARRIVAL)

    def test_an_unknown_zone_is_a_value_error(self) -> None:
        with pytest.raises(ValueError, match="unknown time zone 'Mars/Olympus'"):
            decoder(time_key="t", timezone="Mars/Olympus")

    @pytest.mark.parametrize(
        "written", ['"yesterday"', '"2026-13-01T00:00:00Z"', "17", "{}", '"0001-01-01T00:00:00Z"']
    )
    def test_bad_iso(self, written: str) -> None:
        reason, text = refusal(
            decoder("oven", time_key="t", time_unit="iso"), f'{{"t": {written}, "temp": 1}}'
        )
        assert reason is DropReason.MALFORMED
        assert text.startswith("time ")

    def test_a_disciplined_clock(self) -> None:
        assert one(decoder(time_key="t", synced=True), '{"t": 5, "x": 1}').clock is Clock.SYNCED

    def test_a_retained_message_without_time_is_of_unknown_age(self) -> None:
        reason, _ = refusal(decoder("oven"), '{"temp": 1}', retained=True)
        assert reason is DropReason.TOO_OLD
        assert one(decoder("oven", time_key="t"), '{"t": 5, "temp": 1}', retained=True).n == 1


class TestNumber:
    @pytest.mark.parametrize(
        ("payload", "value"),
        [("21.5", 21.5), (" -3e2\n", -300.0), (".5", 0.5), ("true", 2.0), ("ON", 1.0), ("nan", math.nan)],
    )
    def test_value(self, payload: str, value: float) -> None:
        block = one(decoder("oven", "temp", format="number", words={"ON": 1.0, "true": 2.0}), payload)
        assert block.channels == ("temp",)
        assert block.clock is Clock.ARRIVAL
        assert block.times().tolist() == [ARRIVAL]
        np.testing.assert_array_equal(block.values, np.array([[value]], np.float32))

    @pytest.mark.parametrize(
        ("payload", "text"),
        [
            (b"21.5 \xb0C", "not UTF-8 text: byte 5 is 0xb0"),
            (b"21.5 C", "temp is '21.5 C', expected a number"),
            (b'{"temp": 1}', "temp is '{\"temp\": 1}', expected a number"),
            (b"   ", "an empty payload"),
            (b"", "an empty payload"),
            (b"1" * 50 + b"\n2", "temp is '" + "1" * 36 + "..., expected a number"),
        ],
    )
    def test_bad(self, payload: bytes, text: str) -> None:
        assert refusal(decoder("oven", "temp", format="number"), payload) == (DropReason.MALFORMED, text)

    def test_the_channel_must_be_named(self) -> None:
        assert refusal(decoder("oven", format="number"), "1")[0] is DropReason.UNKNOWN_CHANNEL
        assert one(decoder("air", format="number"), "1").channels == ("pressure",)


# What Python's int and float read, and nobody means as a number.
NOT_NUMBERS = (
    "6_0",
    "1_0.5",
    "1e1_0",
    "true",
    "false",
    "True",
    "0x10",
    "٣",
    "1٣",
    "６",
    "6 0",
    "1,5",
    "--1",
    "1e",
    "+",
)


class TestLenience:
    @pytest.mark.parametrize("written", NOT_NUMBERS)
    def test_what_only_python_takes_for_a_number_is_refused(self, written: str) -> None:
        payloads: list[tuple[str, dict[str, Any]]] = [
            (written, {"format": "number"}),
            (written, {"format": "csv", "separator": ";"}),
            (f'"{written}"', {"format": "csv", "separator": ";"}),
            (f'{{"temp": "{written}"}}', {"numeric_strings": True}),
            (f'{{"temp": ["1", "{written}"]}}', {"numeric_strings": True}),
            (f'm temp="{written}"', {"format": "influx", "numeric_strings": True}),
        ]
        for payload, spec in payloads:
            reason, text = refusal(decoder("oven", "temp", **spec | {"value_key": "temp"}), payload)
            assert (reason, text) == (DropReason.MALFORMED, f"temp is {written!r}, expected a number"), spec

    def test_a_name_with_an_underscore_beside_numbers_is_a_name(self) -> None:
        spec: Any = {"format": "csv", "device_key": "dev", "columns": ("dev", "x", "y", "z")}
        decode = Decoder(PayloadSpec(**spec), DEVICES, renames={"press_4": "press-4"})
        assert one(decode, "press_4,1,2,3").values.tolist() == [[1, 2, 3]]

    def test_a_time_is_plain_digits_too(self) -> None:
        for written in ("1_770_000_000", "٣"):
            _, text = refusal(decoder(format="csv", time_key="t", time_unit="s"), f"{written},1,2,3")
            assert text == f"time is {written!r}, expected a number of s"


class TestCsv:
    def test_columns(self) -> None:
        spec: Any = {"format": "csv", "time_key": "t", "separator": ";", "columns": ("z", "", "t", "x")}
        block = one(decoder(**spec), f"3;skip;{T};1\r\n6;;{T + 10**6};\r\n")
        assert block.channels == ("x", "z")
        assert block.start_ns == T
        np.testing.assert_array_equal(block.values, np.array([[1, 3], [np.nan, 6]], np.float32))

    def test_the_channels_in_order_by_default(self) -> None:
        assert one(decoder(format="csv"), "1,2,3").values.tolist() == [[1, 2, 3]]
        assert one(decoder(format="csv", time_key="t"), "7,1,2,3").times().tolist() == [7]

    def test_header(self) -> None:
        spec: Any = {"format": "csv", "header": True, "time_key": "when", "device_key": "dev"}
        payload = '"when",dev,"x",temp\n5,press-4,1,\n6,oven,,2\n7,nobody,1,2\n'
        blocks, refused = decoder(None, **spec).decode(payload.encode(), ARRIVAL)
        assert [(b.device_id, b.channels, b.times().tolist()) for b in blocks] == [
            ("press-4", ("x",), [5]),
            ("oven", ("temp",), [6]),
        ]
        assert [r.told for r in refused] == ["line 4: no device 'nobody' in the configuration"]

    @pytest.mark.parametrize(
        ("payload", "text"),
        [
            ("1,2", "2 columns, expected 3: x,y,z"),
            ("1,2,3,4", "4 columns, expected 3: x,y,z"),
            ("1,2,three", "z is 'three', expected a number"),
            ("\n \n", "no line of data"),
            (b"1,2,\xff", "not UTF-8 text: byte 4 is 0xff"),
        ],
    )
    def test_bad(self, payload: bytes | str, text: str) -> None:
        assert refusal(decoder(format="csv"), payload) == (DropReason.MALFORMED, text)

    def test_a_truncated_last_line_leaves_the_others(self) -> None:
        blocks, refused = decoder(format="csv").decode(b"1,2,3\n4,5,6\n7,8", ARRIVAL)
        assert blocks[0].values.tolist() == [[1, 2, 3], [4, 5, 6]]
        assert [r.told for r in refused] == ["line 3: 2 columns, expected 3: x,y,z"]


class TestInflux:
    def test_lines(self) -> None:
        payload = (
            f'# telegraf\nair,host=a temp=20.5,humidity=40i,state="ok" {T}\n'
            f"air,host=b temp=1 {T}\ndisk used=5 {T}\nair,host=a temp=21,humidity=t {T + 1}\n"
        )
        spec: Any = {"format": "influx", "measurement": "air", "tags": {"host": "a"}, "words": {"true": 1.0}}
        block = one(decoder("oven", **spec), payload)
        assert block.times().tolist() == [T, T + 1]
        assert block.values.tolist() == [[20.5, 40], [21, 1]]

    def test_a_tag_names_the_device(self) -> None:
        decode = decoder(None, format="influx", device_key="machine", time_unit="s")
        blocks, refused = decode.decode(b"m,machine=oven temp=1 1770000000\nm temp=1\n", ARRIVAL)
        assert blocks[0].times().tolist() == [T]
        assert [r.told for r in refused] == ["line 2: no tag 'machine' that names the device"]

    def test_without_a_time(self) -> None:
        assert one(decoder("oven", format="influx"), "m temp=1").clock is Clock.ARRIVAL

    @pytest.mark.parametrize(
        ("payload", "text"),
        [
            ("m temp=", "not line protocol: "),
            ("m temp=NaN", "not line protocol: "),
            ("nonsense", "not line protocol: "),
            ("m temp=1 99999999999999999999999", "not line protocol: "),
            ("m temp=\x001", "not line protocol: "),
            ('m temp="1"', "temp is the text '1', expected a number"),
            ("m temp=6_0", "not line protocol: "),
            ("m temp=t", "temp is 'true', expected a number"),
            ("m other=1", "no field of temp, humidity among 'other'"),
            ("# nothing", "no line of data"),
        ],
    )
    def test_bad(self, payload: str, text: str) -> None:
        reason, said = refusal(decoder("oven", format="influx"), payload)
        assert reason is DropReason.MALFORMED
        assert said.startswith(text)


def packed(**change: Any) -> bytes:
    header: dict[str, Any] = {
        "magic": b"LWB", "version": 1, "n_channels": 3, "flags": 0, "n_rows": 2,
        "numerator": 1000, "denominator": 1, "reserved": 0, "start_ns": T,
    }  # fmt: skip
    data = change.pop("data", np.arange(6, dtype="<f4").tobytes())
    return PACKED_HEADER.pack(*(header | change).values()) + bytes(data)


class TestPacked:
    def test_round_trip(self) -> None:
        values = np.array([[1.5, -2, 3], [4, np.nan, 6]], np.float32)
        rate = Fraction(25_600, 3)
        payload = encode_packed(values, start_ns=T, rate_hz=rate, synced=True)
        block = one(decoder(format="packed"), payload)
        assert (block.start_ns, block.rate_hz, block.clock) == (T, rate, Clock.SYNCED)
        np.testing.assert_array_equal(block.values, values)

    def test_layout_on_the_wire(self) -> None:
        payload = encode_packed(np.array([[1.0]]), start_ns=0x0102030405060708, rate_hz=Fraction(3, 2))
        assert payload.hex(" ", 4) == (
            "4c574201 01000000 01000000 03000000 02000000 00000000 08070605 04030201 0000803f"
        )

    def test_a_sender_without_a_clock(self) -> None:
        block = one(decoder(format="packed"), packed(start_ns=0))
        assert block.clock is Clock.ARRIVAL
        assert block.times().tolist() == [ARRIVAL - 1_000_000, ARRIVAL]

    @pytest.mark.parametrize(
        ("payload", "text"),
        [
            (packed()[:20], "20 bytes, a packed block has a header of 32"),
            (packed()[:-1], "55 bytes, 2 rows of 3 channels are 56"),
            (packed() + b"\0", "57 bytes, 2 rows of 3 channels are 56"),
            (packed(magic=b"XYZ"), "not a packed block: it does not begin with 'LWB'"),
            (packed(version=2), "a packed block of version 2, flags 0x0: this gateway reads version 1"),
            (packed(flags=6), "a packed block of version 1, flags 0x6: this gateway reads version 1"),
            (packed(reserved=1), "a packed block of version 1, flags 0x0: this gateway reads version 1"),
            (packed(n_channels=2), "2 channels, expected 3: x, y, z"),
            (packed(n_rows=0, data=b""), "32 bytes, 0 rows of 3 channels are 32"),
            (packed(n_rows=2**32 - 1), "56 bytes, 4294967295 rows of 3 channels are 51539607572"),
            (packed(numerator=0), "rate 0/1 Hz"),
            (packed(denominator=0), "rate 1000/0 Hz"),
            (packed(numerator=2**32 - 1), "rate is out of range"),
            (packed(start_ns=2**63 - 1), "time is out of range"),
        ],
    )
    def test_bad(self, payload: bytes, text: str) -> None:
        assert refusal(decoder(format="packed"), payload) == (DropReason.MALFORMED, text)


class TestScaling:
    def test_in_float64_before_the_cast(self) -> None:
        # 1013.2501 hPa: at 100 kPa float32 resolves 8 mPa, after the origin it resolves 1 µPa
        block = one(decoder("air", format="number"), "1013.2501")
        assert block.values[0, 0] == np.float32(1013.2501 * 100.0 + 5.0 - 101_325.0)
        assert abs(float(block.values[0, 0]) - 5.01) < 1e-6

    def test_packed_counts_are_scaled_too(self) -> None:
        block = one(decoder("air", format="packed"), packed(n_channels=1, data=np.ones(2, "<f4").tobytes()))
        assert block.values.tolist() == [[100.0 + 5.0 - 101_325.0]] * 2


def test_oversize() -> None:
    reason, text = refusal(decoder(max_payload_bytes=10), b" " * 11)
    assert (reason, text) == (DropReason.OVERSIZE, "11 bytes, max_payload_bytes is 10")


FORMATS = ("json", "number", "csv", "influx", "packed")
SPECS: list[dict[str, Any]] = [{"format": f} for f in FORMATS] + [{"format": f, **BATCH} for f in FORMATS]
SPECS += [{"rows_key": "x"}, {"format": "csv", "header": True, "device_key": "d"}, {"device_key": "x"}]

fragments = st.sampled_from(
    [b"{", b"}", b"[", b"]", b'"x":', b'"t":', b'"rate_hz":', b",", b"1", b"1e999", b"-", b"NaN", b"null",
     b'"', b"\xff", b"\n", b" ", b"x=1", b"m ", b"LWB\x01", b"\x00", b"9" * 400, b"[1,2]", b"\\u0000",
     b'{"t":1,"rate_hz":1,"x":[1]}']
)  # fmt: skip


@given(
    st.one_of(st.binary(max_size=80), st.lists(fragments, max_size=12).map(b"".join)), st.sampled_from(SPECS)
)
def test_no_payload_raises(payload: bytes, spec: dict[str, Any]) -> None:
    for device in ("press-4", None):
        blocks, refused = decoder(device, **spec).decode(payload, ARRIVAL)
        assert all("\n" not in r.text for r in refused)
        for block in blocks:
            assert not np.isinf(block.values).any()
            assert block.times().shape == (block.n,)


@given(st.data())
def test_a_corrupted_packed_block_is_refused_or_of_the_right_shape(data: st.DataObject) -> None:
    payload = bytearray(packed())
    payload[data.draw(st.integers(0, len(payload) - 1))] ^= data.draw(st.integers(1, 255))
    blocks, refused = decoder(format="packed").decode(bytes(payload), ARRIVAL)
    assert len(blocks) + len(refused) == 1
    assert all(b.values.shape == (2, 3) for b in blocks)


@given(
    st.lists(st.tuples(*[st.floats(-1e30, 1e30, allow_subnormal=False)] * 3), min_size=1, max_size=20),
    st.integers(-(2**61), 2**61),
)
def test_all_formats_agree(rows: list[tuple[float, ...]], start: int) -> None:
    rate = Fraction(1000)
    values = np.array(rows)
    batch = {"t": start, "rate_hz": 1000} | {c: values[:, i].tolist() for i, c in enumerate("xyz")}
    csv = "\n".join(f"{start + i * 10**6},{r[0]!r},{r[1]!r},{r[2]!r}" for i, r in enumerate(rows))
    influx = "\n".join(f"m x={r[0]!r},y={r[1]!r},z={r[2]!r} {start + i * 10**6}" for i, r in enumerate(rows))
    expected = one(decoder(format="packed"), encode_packed(values, start_ns=start or 1, rate_hz=rate))
    for decode, payload in (
        (decoder(**BATCH), json.dumps(batch)),
        (decoder(format="csv", time_key="t"), csv),
        (decoder(format="influx"), influx),
    ):
        block = one(decode, payload)
        np.testing.assert_array_equal(block.values, expected.values)
        assert (block.start_ns, block.rate_hz) == (start, rate)
