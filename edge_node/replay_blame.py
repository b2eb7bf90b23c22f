"""Which channels the alerts of a replay were about: counted by kind. Pure."""

from __future__ import annotations

from collections import Counter, defaultdict

from models.messages import Alert, AlertKind

KINDS: tuple[AlertKind, ...] = ("machine", "limit", "sensor", "drift")  # those that name channels


class Blame:
    """Counts alerts by the channel that each names first, and the shares that machine alerts give to every channel."""

    def __init__(self) -> None:
        self._n: Counter[tuple[str, str, AlertKind]] = Counter()  # by device, channel, kind
        self._shares: defaultdict[tuple[str, str], float] = defaultdict(
            float
        )  # summed, by device and channel

    @property
    def n(self) -> int:
        """How many alerts named a channel."""
        return self._n.total()

    def add(self, alert: Alert) -> None:
        """The last word of an alert."""
        if not alert.contributions or alert.kind not in KINDS:
            return
        self._n[alert.device, alert.contributions[0].channel, alert.kind] += 1
        if alert.kind == "machine":
            for contribution in alert.contributions:
                self._shares[alert.device, contribution.channel] += contribution.share

    def of(self, device: str) -> list[tuple[str, int, float | None]]:
        """By channel of ``device``, the most to blame first: how many alerts named it first, and its mean share of the
        machine alerts (None: there was none)."""
        n_machine = sum(n for (of, _, kind), n in self._n.items() if of == device and kind == "machine")
        channels = {channel for of, channel, _ in self._n if of == device}
        channels |= {channel for of, channel in self._shares if of == device}
        rows = [
            (
                channel,
                sum(n for (of, name, _), n in self._n.items() if (of, name) == (device, channel)),
                self._shares.get((device, channel), 0.0) / n_machine if n_machine else None,
            )
            for channel in channels
        ]
        return sorted(rows, key=lambda row: (-(row[2] or 0.0), -row[1], row[0]))

    def table(self, *, by_device: bool) -> tuple[list[tuple[str, ...]], tuple[str, ...]]:
        """(rows, headers): a row a channel, those most to blame first; ``by_device``: with the device's name."""
        kinds = [kind for kind in KINDS if any(of == kind for _, _, of in self._n)]
        n_machine = sum(n for (_, _, kind), n in self._n.items() if kind == "machine")

        def order(of: tuple[str, str]) -> tuple[object, ...]:
            return (-self._shares.get(of, 0.0), *(-self._n[(*of, kind)] for kind in kinds), of)

        rows = []
        for of in sorted(
            {(device, channel) for device, channel, _ in self._n} | set(self._shares), key=order
        ):
            row = [*(of if by_device else of[1:]), *(str(self._n[(*of, kind)]) for kind in kinds)]
            if n_machine:
                row.append(f"{self._shares[of] / n_machine:.0%}" if of in self._shares else "-")
            rows.append(tuple(row))
        headers = [
            *(["device"] if by_device else []),
            "channel to blame",
            *(f"{kind} alerts" for kind in kinds),
        ]
        return rows, (*headers, *(["mean share of machine alerts"] if n_machine else []))
