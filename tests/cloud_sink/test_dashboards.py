"""Each panel of dashboards/, its query as it stands there, on a real InfluxDB over what the sink wrote: the numbers are right."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from cloud_sink import influx
from cloud_sink.events import Batch
from cloud_sink.influx_options import Influx
from cloud_sink.influx_queue import PointQueue
from cloud_sink.influx_writer import Writer
from cloud_sink.stores import points_of
from cloud_sink.summaries import SummaryTable
from models.messages import ConnectionStatus, ModelState, rfc3339
from models.refusals import RefusalReason
from tests.brokers import wait_for
from tests.cloud_sink.gateways import NS, alert, status, summary
from tests.influxes import Influx1, influx1

FOLDER = Path(__file__).parents[2] / "dashboards"
DASHBOARDS = {path.stem: json.loads(path.read_text()) for path in sorted(FOLDER.glob("*.json"))}
NOW = time.time_ns() // (60 * NS) * 60 * NS
PANELS = [(name, p["title"]) for name, d in DASHBOARDS.items() for p in d["panels"]]


def statuses() -> list[Any]:
    """Two gateways over two hours, once a minute; g2 is gone in the end."""
    found = []
    for i in range(120):
        at = rfc3339(NOW - (120 - i) * 60 * NS)
        for g, rate in (("g1", 600), ("g2", 1200)):
            counters = {
                "samples_in": rate * i,
                "windows_scored": 6 * i,
                "samples_dropped.late": 2 * i,
                "samples_dropped.duplicate": i,
                "windows_dropped.gap": i // 60,
                "events_queued": 5,
                "events_dropped.summary.full": 0,
                "egress_bytes.alert": 100 * i,
                "egress_bytes.summary": 1000 * i,
                "events_delivered.alert": i,
            }
            more = {
                "counters": counters,
                "connections": {"source a": ConnectionStatus(connected=i > 60, error=None)},
            }
            found.append(status(g, updated_at=at, black_box_error="full" if g == "g1" else None, **more))
    found.append(status("g2", "offline", updated_at=rfc3339(NOW - 60 * NS), counters={}))
    return found


def model(
    gateway: str, state: Any, version: int, running: int, minutes: int, reason: Any = None
) -> ModelState:
    since_ns = NOW - minutes * 60 * NS
    return ModelState(
        message_id=f"{gateway}-{state}-{version}",
        site="s1",
        gateway=gateway,
        model_id="press",
        state=state,
        version=version,
        running=running,
        canary=False,
        reason=reason,
        text=f"version {version} {state}",
        since_ns=since_ns,
        since_at=rfc3339(since_ns),
    )


def published() -> Batch:
    def ago(message: Any, minutes: float) -> Any:
        shift = NOW - round(minutes * 60 * NS) - message.end_ns
        return msgspec.structs.replace(
            message, start_ns=message.start_ns + shift, end_ns=message.end_ns + shift
        )

    batch = Batch(1, statuses=statuses())
    for i in range(12):
        severity = "critical" if i % 3 == 0 else "warning"
        device, machine = ("d1", "press") if i < 8 else ("d2", "pump")
        more = {"device": device, "machine": machine, "severity": severity}
        batch.alerts.append(ago(alert(i, **more), 100 - i * 8))
        batch.alerts.append(ago(alert(i, seq=1, state="cleared", **more), 100 - i * 8 - 1))
    rows = [
        ago(
            summary(
                i, device="d1", score_quantiles={"q0.5": 1.0 + i, "q0.9": 2.0, "q0.99": 3.0, "q1": 10.0 + i}
            ),
            100 - i,
        )
        for i in range(60)
    ]
    rows += [ago(summary(i, device="d2", machine="pump"), 100 - i) for i in range(10)]
    batch.summaries = [SummaryTable.of(rows)]
    batch.models = [
        model("g1", "shadow", 2, 1, 90),
        model("g1", "adopted", 2, 2, 80),
        model("g2", "shadow", 2, 1, 70),
        model("g2", "refused", 2, 1, 60, RefusalReason.TOO_SLOW),
    ]
    return batch


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Influx1]:
    folder = tmp_path_factory.mktemp("influx")
    with influx1(folder) as running:
        queue = PointQueue(folder / "q", 1 << 26)
        queue.put(points_of(published()))
        writer = Writer(Influx(url=running.url, version="1"), queue)
        writer.start()
        wait_for(lambda: queue.counts()["waiting"] == 0, "the points")
        writer.stop()
        assert queue.counts()["rejected"] == 0
        yield running


def asked(
    server: Influx1, dashboard: str, title: str, interval: str = "10m", **chosen: str
) -> list[dict[str, Any]]:
    """What the panel's queries give, its variables being ``chosen``, else all."""
    (panel,) = [p for p in DASHBOARDS[dashboard]["panels"] if p["title"] == title]
    rows = []
    for target in panel["targets"]:
        q = target["query"].replace("$timeFilter", f"time >= {NOW - 3 * 3600 * NS} AND time <= {NOW + NS}")
        q = q.replace("$__interval", interval)
        for variable in DASHBOARDS[dashboard]["templating"]["list"]:
            q = q.replace(f"${variable['name']}", chosen.get(variable["name"], variable["allValue"]))
        assert "$" not in q.replace("$/", ""), q
        rows += server.query("linewatch", q)
    return rows


def only(rows: list[dict[str, Any]], name: str = "sum") -> Any:
    (row,) = rows
    return row[name]


def test_fleet(server: Influx1) -> None:
    assert only(asked(server, "fleet", "Gateways online")) == 1
    assert only(asked(server, "fleet", "Gateways heard"), "count") == 2
    assert only(asked(server, "fleet", "Alerts raised")) == 12
    assert asked(server, "fleet", "Alerts raised", site="elsewhere") == []
    assert only(asked(server, "fleet", "Windows scored")) == 70 * 40
    by_severity: dict[str, int] = {}
    for row in asked(server, "fleet", "Alerts raised, by severity"):
        by_severity[row["severity"]] = by_severity.get(row["severity"], 0) + row["sum"]
    assert by_severity == {"critical": 4, "warning": 8}
    most = {row["machine"]: row["alerts"] for row in asked(server, "fleet", "Machines with most alerts")}
    assert most == {"press": 8, "pump": 4}
    highest = asked(server, "fleet", "Highest score of each machine")
    assert max(row["max"] for row in highest if row["machine"] == "press") == 69.0
    assert max(row["max"] for row in highest if row["machine"] == "pump") == 4.0
    sent = asked(server, "fleet", "Sent upstream an hour, by type")
    steady = sorted({row["sum"] for row in sent if row["type"] == "summary"})
    assert steady[-1] == pytest.approx(2 * 60_000, rel=0.01)  # both gateways: 1000 bytes a minute each


def test_one_machine(server: Influx1) -> None:
    scores = asked(server, "machine", "Scores of its windows", device="d1", interval="3h")
    assert sum(row["median"] is not None for row in scores) >= 1
    assert max(row["highest"] for row in scores) == 69.0
    whole = asked(server, "machine", "Scores of its windows", device="d1", interval="1m")
    assert sorted(row["median"] for row in whole) == [1.0 + i for i in range(60)]
    assert {row["99 %"] for row in whole} == {3.0}
    assert only(asked(server, "machine", "Windows summed up", device="d1")) == 60 * 40
    assert only(asked(server, "machine", "Windows left out", device="d2")) == 10 * 2
    assert only(asked(server, "machine", "Alerts raised", device="d2")) == 4
    assert only(asked(server, "machine", "Longest alert", device="d1"), "max") == 2.0
    table = asked(server, "machine", "Alerts", device="d2")
    assert len(table) == 8
    assert [row["state"] for row in table[:2]] == ["cleared", "raised"]  # the newest first
    assert {row["message"] for row in table} == {"press: pressure 2.1 bar"}


def test_rollout(server: Influx1) -> None:
    table = {row["gateway"]: row for row in asked(server, "rollout", "What became of it", model="press")}
    assert (table["g1"]["version"], table["g1"]["scores with"], table["g1"]["state"]) == (2, 2, "adopted")
    assert (table["g2"]["state"], table["g2"]["reason"]) == ("refused", "too_slow")
    running = [row for row in asked(server, "rollout", "Version that scores") if row["last"] is not None]
    assert running[-1]["last"] in (1, 2)
    assert {row["gateway"]: row["last"] for row in running} == {"g1": 2, "g2": 1}
    assert only(asked(server, "rollout", "Adopted"), "count") == 1
    assert only(asked(server, "rollout", "Refused"), "count") == 1
    assert asked(server, "rollout", "Rolled back") == []


def test_gateway_health(server: Influx1) -> None:
    online = {
        row["gateway"]: row["last"] for row in asked(server, "gateway", "Online") if row["last"] is not None
    }
    assert online == {"g1": 1, "g2": 0}
    sources = asked(server, "gateway", "Sources connected", gateway="g1")
    assert [sources[0]["connected"], sources[-1]["connected"], sources[-1]["configured"]] == [0, 1, 1]
    for title, gateway, rate in (
        ("Values in, a second", "g2", 20.0),
        ("Windows scored, a second", "g1", 0.1),
    ):
        rates = [row["non_negative_derivative"] for row in asked(server, "gateway", title, gateway=gateway)]
        assert sorted(rates)[len(rates) // 2] == pytest.approx(rate, rel=0.01), title
    dropped = asked(server, "gateway", "Dropped: values, windows, messages", gateway="g1")
    assert sorted(row["values"] for row in dropped)[len(dropped) // 2] == 30  # three a minute
    assert {row["messages"] for row in dropped} == {0}
    waiting = asked(server, "gateway", "Messages that wait for the broker", gateway="g1")
    assert {row["max"] for row in waiting} == {5}
    sent = {row["type"]: row for row in asked(server, "gateway", "Sent upstream", gateway="g1")}
    assert (sent["alert"]["bytes"], sent["alert"]["messages"], sent["summary"]["bytes"]) == (
        11_900,
        119,
        119_000,
    )
    assert only(asked(server, "gateway", "Black boxes that do not record")) == 1
    assert only(asked(server, "gateway", "Black boxes that do not record", gateway="g2")) == 0


def test_no_panel_is_left_out() -> None:
    told = Path(__file__).read_text()
    assert [
        (name, title)
        for name, title in PANELS
        if f'"{name}", "{title}"' not in told and f'("{title}"' not in told
    ] == []


@pytest.mark.parametrize("name", sorted(DASHBOARDS))
def test_a_dashboard_is_whole(name: str) -> None:
    dashboard = DASHBOARDS[name]
    assert dashboard["uid"] == f"linewatch-{name}"
    panels = dashboard["panels"]
    assert len({p["id"] for p in panels}) == len({p["title"] for p in panels}) == len(panels)
    variables = {v["name"] for v in dashboard["templating"]["list"]}
    for p in panels:
        assert p["datasource"] == {"type": "influxdb", "uid": "linewatch"}
        assert p["gridPos"]["x"] + p["gridPos"]["w"] <= 24
        for target in p["targets"]:
            used = set(re.findall(r"\$(\w+)", target["query"])) - {"timeFilter", "__interval"}
            assert used <= variables
            assert target["query"].count("$timeFilter") >= 1
    for other in panels:
        for p in panels:
            if p is not other:
                a, b = p["gridPos"], other["gridPos"]
                apart = (
                    a["x"] + a["w"] <= b["x"]
                    or b["x"] + b["w"] <= a["x"]
                    or a["y"] + a["h"] <= b["y"]
                    or b["y"] + b["h"] <= a["y"]
                )
                assert apart, (p["title"], other["title"])


def test_variables_have_values(server: Influx1) -> None:
    wanted = {"site": {"s1"}, "gateway": {"g1", "g2"}, "device": {"d1", "d2"}, "model": {"press"}}
    for dashboard in DASHBOARDS.values():
        for variable in dashboard["templating"]["list"]:
            q = variable["query"].replace("$site", ".*").replace("$gateway", ".*")
            assert {row["value"] for row in server.query("linewatch", q)} == wanted[variable["name"]], (
                variable["name"]
            )


def test_the_page_names_every_measurement_and_field() -> None:
    page = (FOLDER / "README.md").read_text()
    for line in points_of(published()):
        head, _, rest = line.partition(" ")
        measurement, *tags = head.split(",")
        (row,) = [r for r in page.splitlines() if r.startswith(f"| `{measurement}`")]
        _, _, tag_cell, field_cell, _ = row.split("|")
        assert {t.partition("=")[0] for t in tags} <= set(tag_cell.replace(" ", "").split(","))
        names = set(re.findall(r"(?:^|,)(\w+)=", re.sub(r'"[^"]*"', "", rest)))
        assert names <= set(field_cell.replace(" ", "").split(",")), names
    assert influx.ALERT in page
