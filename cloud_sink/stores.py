"""Where what gateways say is kept, as one: summaries, events, and points for dashboards."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from cloud_sink import influx
from cloud_sink.events import Batch, EventStore
from cloud_sink.features_store import FeatureStore
from cloud_sink.influx_queue import PointQueue
from cloud_sink.ingest import Message, Refused, believable
from cloud_sink.limits import Limits
from cloud_sink.unstorable import Unstorable
from models.messages import Alert, DeviceStateMessage, ModelState, Response, Status, Summary


class Believed(NamedTuple):
    """What a message says, as far as it says so for itself."""

    topic: str
    message: Message | Gone


class Gone(NamedTuple):
    """A gateway has taken a device's retained state back: it watches it no more."""

    site: str
    gateway: str
    device: str


class Stores:
    """See the module's docstring, and :meth:`put`."""

    def __init__(self, events: EventStore, features: FeatureStore, points: PointQueue | None = None) -> None:
        self.events = events
        self.features = features
        self.points = points

    def put(self, batch: Batch) -> None:
        """First the summaries, whose repetition doubles nothing, then the events, then the points. Raises StoreError,
        EventsUnavailable and QueueError; done again, it changes nothing but adds what was missing. Raises Unstorable where that
        is no use, since one of them refuses something of ``batch``."""
        try:
            if batch.summaries:
                self.features.append(batch.summaries)
            self.events.commit(batch)
            if self.points is not None:
                self.points.put(points_of(batch))
        except (
            OverflowError,
            UnicodeError,
        ) as error:  # as drivers say that a number or a text is none of theirs
            raise Unstorable(str(error)) from error


def points_of(batch: Batch) -> list[str]:
    """What of ``batch`` dashboards are to show."""
    lines = [
        *influx.alert_lines(batch.alerts),
        *influx.status_lines(batch.statuses),
        *influx.model_lines(batch.models),
        *(line for table in batch.summaries for line in influx.score_lines(table)),
    ]
    return [line for line in lines if line]


def batch_of(messages: Sequence[Believed], at_ns: int, limits: Limits) -> tuple[Batch, dict[int, Refused]]:
    """``messages`` as they are stored, and which of them are not taken, by index."""
    batch = Batch(at_ns)
    summaries: dict[int, Summary] = {}
    for i, (_, message) in enumerate(messages):
        match message:
            case Summary():
                summaries[i] = message
            case Alert():
                batch.alerts.append(message)
            case Status():
                batch.statuses.append(message)
            case DeviceStateMessage():
                key = (message.site, message.gateway, message.device)
                batch.states[key] = message
            case Gone():
                batch.states[message] = None
            case ModelState():
                batch.models.append(message)
            case Response():
                batch.responses.append(message)
    indices = list(summaries)
    batch.summaries, refusals = believable(list(summaries.values()), limits)
    return batch, {indices[i]: refusal for i, refusal in refusals}
