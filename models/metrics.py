"""The gateway's counters as Prometheus metrics.

Strategy: nothing in the gateway knows Prometheus. A :class:`Family` is built from plain integers when
``/metrics`` is asked for. Names follow Prometheus' own rules: base units, ``_total`` for counters. Every reason is a
``DropReason``, of a request a ``Refusal``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal
from wsgiref.types import WSGIApplication

from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric, SummaryMetricFamily
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector


@dataclass(frozen=True, slots=True)
class Family:
    """One metric: its name without ``_total``, help, and value by label values."""

    name: str
    help: str
    kind: Literal["counter", "gauge", "summary"]
    labels: tuple[str, ...] = ()
    values: Mapping[tuple[str, ...], float] = field(default_factory=dict)  # of a summary: the sums
    counts: Mapping[tuple[str, ...], int] = field(default_factory=dict)  # of a summary


class GatewayCollector(Collector):
    """Asks ``read`` for the families each time somebody looks."""

    def __init__(self, read: Callable[[], list[Family]]) -> None:
        self._read = read

    def collect(self) -> Iterator[Metric]:
        for family in self._read():
            name = f"linewatch_{family.name}"
            if family.kind == "summary":
                summary = SummaryMetricFamily(name, family.help, labels=family.labels)
                for labels, total in sorted(family.values.items()):
                    summary.add_metric(labels, family.counts[labels], total)
                yield summary
                continue
            build = CounterMetricFamily if family.kind == "counter" else GaugeMetricFamily
            metric = build(name, family.help, labels=family.labels)
            for labels, value in sorted(family.values.items()):
                metric.add_metric(labels, value)
            yield metric


def application(read: Callable[[], list[Family]]) -> WSGIApplication:
    """Serves what ``read`` gives, and the process's own."""
    registry = CollectorRegistry()
    registry.register(GatewayCollector(read))
    ProcessCollector(registry=registry)
    app: WSGIApplication = make_wsgi_app(registry)
    return app
