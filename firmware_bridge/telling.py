"""What there is to say to a person while a board is followed: each thing once, in one line. Pure."""

from __future__ import annotations

from firmware_bridge.figures import board_text, rate_text, silence_text
from firmware_bridge.news import Came, Gone, News, Opened, Standing
from firmware_bridge.protocol import Hello, Refusal
from firmware_bridge.session_items import Greeting, Logged, Reset

SILENT_S = 5.0  # so long after the port was opened a board without a Hello is strange


class Teller:
    """News in, lines out. ``trouble``: why the port is not open."""

    def __init__(self) -> None:
        self.trouble: str | None = None
        self._opened_s: float | None = None
        self._refusals: set[str] = set()

    def tell(self, new: News, now_s: float) -> str | None:
        """What to say of it; None: nothing, or nothing again."""
        match new:
            case Opened(path=path):
                self.trouble, self._opened_s = None, now_s
                return f"{path}: open"
            case Gone(why=why):
                before, self.trouble, self._opened_s = self.trouble, why, None
                return why if why != before else None
            case Came(item=Greeting(hello=hello, new=True)):
                return f"board {introduced(hello)}"
            case Came(item=Reset() as reset):
                return reset.text
            case Came(item=Logged(event=event)):
                code = f" {event.code}" if event.code else ""
                return f"the board says ({event.severity.name.lower()}{code}): {event.text}"
            case Came(item=Refusal(text=text)) if text not in self._refusals and len(self._refusals) < 100:
                self._refusals.add(text)
                return text
            case _:
                return None

    def hint(self, standing: Standing, now_s: float) -> str | None:
        """Once for each opening: why there is still no board. None: there is one, or it is too early."""
        if self._opened_s is None or standing.hello is not None or now_s - self._opened_s < SILENT_S:
            return None
        self._opened_s = None
        return silence_text(standing)


def introduced(hello: Hello) -> str:
    """Who a board is and what it sends."""
    channels = ", ".join(f"{c.name} in {c.unit}" if c.unit else c.name for c in hello.channels)
    return f"{board_text(hello)}: {channels}; {rate_text(hello.rate_hz)}"
