"""Who may see the page and who may ask for something on it: real sockets, each rule on its own."""

from __future__ import annotations

import http.client
import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edge_node.config_schema import Gateway
from edge_node.requests import MAX_BYTES
from edge_node.web import site as site_module
from edge_node.web.page import MAX_DRAWN, Query
from edge_node.web.site import SECURITY, NotNow, Site
from edge_node.web.view import Health, Live
from models import local_http
from models.local_http import _session
from models.messages import Response
from models.requests import Refusal
from tests.brokers import HOST
from tests.edge_node.outgoing_messages import AT, status
from tests.models.test_local_http import hello

TOKEN = "correct-horse-battery"
NOTHING = Live(
    now_ms=AT // 1_000_000,
    layout="l",
    devices=(),
    now=(),
    open=(),
    over_tag="o",
    over=(),
    health=Health(status=status(), uplink=None, problem=None, latency_ms={}),
    scores={},
)
ANSWER = Response(
    message_id="m",
    site="s",
    gateway="g",
    request="ack",
    transaction="t",
    ok=False,
    reason=Refusal.NOT_OPEN,
    text="it is over",
    at_ns=AT,
    at="",
)


class Served:
    """A site on a port, what it was asked for, and a browser's way to ask."""

    def __init__(self, gateway: Gateway) -> None:
        self.asked: list[tuple[str, bytes]] = []
        self.looked: list[Query] = []
        self.answer: Callable[[Future[Response]], None] = lambda told: told.set_result(ANSWER)
        self.guard = local_http.Guard(hello, gateway.http_token_file, gateway.http_token_env)
        self.server = local_http.serve(HOST, 0, Site(self.guard, self.look, self.ask, page=gateway.page))
        self.host = f"{HOST}:{self.server.server_port}"

    def look(self, query: Query) -> Live:
        self.looked.append(query)
        return NOTHING

    def ask(self, name: str, payload: bytes) -> Future[Response]:
        self.asked.append((name, payload))
        told: Future[Response] = Future()
        self.answer(told)
        return told

    def send(
        self, method: str, path: str, body: bytes | None = None, **headers: str | None
    ) -> tuple[int, bytes, dict[str, str]]:
        """Headers as keywords; None leaves one out."""
        connection = http.client.HTTPConnection(HOST, self.server.server_port, timeout=5)
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.putrequest(method, path, skip_host="Host" in given)
        if body is not None:
            given.setdefault("Content-Length", str(len(body)))
        for name, value in given.items():
            if value is not None:
                connection.putheader(name, value)
        connection.endheaders(body)
        reply = connection.getresponse()
        return reply.status, reply.read(), dict(reply.getheaders())

    def post(
        self, path: str, body: bytes = b"{}", **headers: str | None
    ) -> tuple[int, bytes, dict[str, str]]:
        """As the page's own script does, but for ``headers``."""
        own: dict[str, str | None] = {
            "Origin": f"http://{self.host}",
            "Sec_Fetch_Site": "same-origin",
            "Content_Type": "application/json",
        }
        return self.send("POST", path, body, **(own | headers))


@contextmanager
def served(**options: Any) -> Iterator[Served]:
    one = Served(Gateway(name="g", **options))
    try:
        yield one
    finally:
        one.server.shutdown()
        one.server.server_close()


@pytest.fixture(scope="module")
def open_site() -> Iterator[Served]:
    with served() as one:
        yield one


@pytest.fixture
def site(open_site: Served) -> Served:
    open_site.asked.clear()
    open_site.looked.clear()
    open_site.answer = lambda told: told.set_result(ANSWER)
    return open_site


@pytest.fixture
def closed(tmp_path: Path) -> Iterator[Served]:
    (tmp_path / "token").write_text(TOKEN)
    with served(http_token_file=tmp_path / "token", metrics_host="0.0.0.0") as one:
        yield one


def test_the_page_is_served_beside_the_metrics(site: Served) -> None:
    code, body, headers = site.send("GET", "/")
    assert code == 200
    assert headers["Content-Type"].startswith("text/html")
    assert b'src="/app.js"' in body
    assert site.send("GET", "/metrics")[:2] == (200, b"hello")
    assert site.send("GET", "/api/live")[:2] == (200, msgspec.json.encode(NOTHING))
    assert site.send("GET", "/elsewhere")[0] == 404
    assert site.send("GET", "/../site.py")[0] == 404
    assert site.send("GET", "/vendor/%2e%2e/%2e%2e/site.py")[0] == 404
    assert site.send("HEAD", "/")[:2] == (200, b"")
    assert site.send("PUT", "/")[0] == 405


@pytest.mark.parametrize("path", ["/", "/app.js", "/api/live", "/login", "/nothing"])
def test_every_answer_tells_the_browser_to_trust_nothing_else(site: Served, path: str) -> None:
    _, _, headers = site.send("GET", path)
    for name, value in SECURITY:
        assert headers[name] == value
    policy = headers["Content-Security-Policy"]
    assert "unsafe" not in policy
    assert policy.startswith("default-src 'none'; script-src 'self';")
    assert not any(name.startswith("Access-Control-") for name in headers), "no other site may read this"


def test_what_the_browser_has_is_not_sent_again(site: Served) -> None:
    _, body, headers = site.send("GET", "/app.js")
    assert headers["Cache-Control"] == "no-cache"
    assert site.send("GET", "/app.js", If_None_Match=headers["ETag"])[:2] == (304, b"")
    assert site.send("GET", "/app.js", If_None_Match='"other"')[:2] == (200, body)
    assert site.send("GET", "/api/live")[2]["Cache-Control"] == "no-store"


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:9464", "127.0.0.1.evil.example", "", "[", None]
)
@pytest.mark.parametrize("path", ["/", "/api/live", "/app.js"])
def test_a_name_that_was_made_to_point_here_is_not_answered(
    site: Served, path: str, host: str | None
) -> None:
    """DNS rebinding: a page of another site whose name resolves to this computer."""
    n_refused = site.guard.n_refused
    assert site.send("GET", path, Host=host)[0] == 403
    assert site.post("/api/request/ack", Host=host, Origin=f"http://{host}", Sec_Fetch_Site=None)[0] == 403
    assert site.guard.n_refused == n_refused + 2
    assert site.asked == site.looked == []


@pytest.mark.parametrize("host", ["localhost:1", "127.0.0.1", "127.0.0.1:8443", "[::1]:9464"])
def test_this_computer_has_several_names(site: Served, host: str) -> None:
    assert site.send("GET", "/", Host=host)[0] == 200


@pytest.mark.parametrize("name", ["ack", "label", "accept_as_normal"])
def test_what_is_asked_goes_to_the_desk_as_it_is(site: Served, name: str) -> None:
    body = b'{"transaction": "t", "by": "J\xc3\xbcrgen"}'
    assert site.post(f"/api/request/{name}", body)[:2] == (200, msgspec.json.encode(ANSWER))
    assert site.asked == [(name, body)]


@pytest.mark.parametrize(
    ("code", "headers"),
    [
        (403, {"Sec_Fetch_Site": "cross-site"}),
        (403, {"Sec_Fetch_Site": "same-site"}),
        (403, {"Sec_Fetch_Site": "none"}),
        (403, {"Sec_Fetch_Site": None, "Origin": "http://evil.example"}),
        (403, {"Sec_Fetch_Site": None, "Origin": "http://127.0.0.1:1"}),
        (403, {"Sec_Fetch_Site": None, "Origin": "null"}),
        (403, {"Sec_Fetch_Site": None, "Origin": None}),
        (415, {"Content_Type": "text/plain"}),
        (415, {"Content_Type": "application/x-www-form-urlencoded"}),
        (415, {"Content_Type": "text/plain; application/json"}),
        (415, {"Content_Type": None}),
        (411, {"Content_Length": None}),
        (411, {"Content_Length": "-1"}),
        (413, {"Content_Length": str(MAX_BYTES + 1)}),
    ],
)
def test_no_other_sites_page_can_ask_for_anything(
    site: Served, code: int, headers: dict[str, str | None]
) -> None:
    assert site.post("/api/request/ack", b"{}", **headers)[0] == code
    assert site.asked == []


def test_a_browser_that_says_its_origin_alone_is_believed(site: Served) -> None:
    assert site.post("/api/request/ack", Sec_Fetch_Site=None)[0] == 200
    proxied = f"https://{site.host}"
    assert site.post("/api/request/ack", Sec_Fetch_Site=None, Origin=proxied)[0] == 200


@pytest.mark.parametrize("name", ["reload", "status", "", "ack/", "ACK"])
def test_other_requests_are_not_the_pages(site: Served, name: str) -> None:
    assert site.post(f"/api/request/{name}")[0] == 404
    assert site.send("GET", "/api/request/ack")[0] == 404
    assert site.asked == []


def cancel(told: Future[Response]) -> None:
    told.cancel()


def test_who_gets_no_answer_is_told_so(site: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    site.answer = cancel
    code, body, _ = site.post("/api/request/ack")
    assert (code, msgspec.json.decode(body)["error"]) == (
        503,
        "too much waits here, or the gateway stops: ask again",
    )
    monkeypatch.setattr(site_module, "ANSWER_S", 0.05)
    site.answer = lambda told: None
    assert site.post("/api/request/ack")[0] == 504

    def busy(_: Query) -> Live:
        raise NotNow("busy")

    with served() as one:
        monkeypatch.setattr(one.server.get_app(), "_look", busy)
        assert one.send("GET", "/api/live")[:2] == (503, b'{"error": "busy"}')


def test_scores_are_asked_for_by_device_and_second(site: Served) -> None:
    path = "/api/live?layout=x&over=y&scores=170+pump%201&scores=0+a%26b"
    assert site.send("GET", path)[0] == 200
    assert site.looked == [Query("x", "y", {"pump 1": 170, "a&b": 0})]
    many = "&".join(f"scores=0+d{i}" for i in range(MAX_DRAWN + 9))
    assert site.send("GET", f"/api/live?{many}")[0] == 200
    assert len(site.looked[-1].since) == MAX_DRAWN
    for bad in ("scores=x+d", "scores=-1+d", "scores=+d", "scores=%D9%A3+d", f"scores={'9' * 13}+d"):
        assert site.send("GET", f"/api/live?{bad}")[0] == 400, bad
    assert site.send("GET", f"/api/live?{'a' * 20_000}")[0] == 414


def test_with_a_token_nothing_is_seen_before_one_logs_in(closed: Served) -> None:
    code, _, headers = closed.send("GET", "/")
    assert (code, headers["Location"]) == (303, "/login")
    assert closed.send("GET", "/api/live")[0] == 401
    assert closed.post("/api/request/ack")[0] == 401
    assert closed.send("GET", "/metrics")[0] == 401
    assert closed.asked == closed.looked == []
    code, body, headers = closed.send("GET", "/login")
    assert code == 200
    assert b'name="token"' in body
    assert b"That was not" not in body
    assert closed.send("GET", "/style.css")[0] == 200, "which shows nothing of the gateway"


def log_in(site: Served, token: str = TOKEN, **headers: str | None) -> tuple[int, bytes, dict[str, str]]:
    form: dict[str, str | None] = {"Content_Type": "application/x-www-form-urlencoded"}
    return site.post("/login", f"token={token}".encode(), **(form | headers))


def session(site: Served) -> str:
    code, _, headers = log_in(site)
    assert (code, headers["Location"]) == (303, "/")
    return headers["Set-Cookie"].partition(";")[0]


def test_who_knows_the_token_gets_a_session(closed: Served) -> None:
    code, body, headers = log_in(closed, "guess")
    assert code == 403
    assert b"That was not the token." in body
    assert "Set-Cookie" not in headers
    assert closed.guard.n_refused == 1
    assert log_in(closed, "")[0] == 403
    assert log_in(closed, Origin="http://evil.example", Sec_Fetch_Site="cross-site")[0] == 403

    code, _, headers = log_in(closed)
    cookie, *attributes = headers["Set-Cookie"].split("; ")
    assert set(attributes) == {"Path=/", "Max-Age=43200", "HttpOnly", "SameSite=Strict"}
    assert TOKEN not in str(headers)
    port = closed.server.server_port
    assert re.fullmatch(rf"linewatch-{port}=\d+\.[0-9a-f]{{64}}", cookie)
    assert closed.send("GET", "/", Cookie=cookie)[0] == 200
    code, _, headers = closed.send("GET", "/api/live", Cookie=f"other=1; {cookie}; linewatch-1=x")
    assert (code, headers["Linewatch-Login"]) == (200, "1")
    assert closed.post("/api/request/ack", Cookie=cookie)[0] == 200
    assert closed.send("GET", "/metrics", Cookie=cookie)[0] == 200
    assert closed.send("GET", "/api/live", Authorization=f"Bearer {TOKEN}")[0] == 200
    assert "Secure" in log_in(closed, Origin="https://gateway.example")[2]["Set-Cookie"]


def test_a_session_does_not_help_another_sites_page(closed: Served) -> None:
    cookie = session(closed)
    assert closed.post("/api/request/ack", Cookie=cookie, Sec_Fetch_Site="cross-site")[0] == 403
    assert closed.post("/api/request/ack", Cookie=cookie, Content_Type="text/plain")[0] == 415
    assert closed.asked == []


def test_a_session_ends(closed: Served, tmp_path: Path) -> None:
    cookie = session(closed)
    name, _, value = cookie.partition("=")
    expires, _, signature = value.partition(".")
    past = _session(TOKEN, int(time.time()) - 1)
    for forged in (
        f"{int(expires) + 1}.{signature}",
        f"{expires}.{'0' * 64}",
        _session("another-token-of-16", int(expires)),
        past,
        f"-{value}",
        f"{'9' * 30}.{signature}",
        "",
        ".",
        "٣.x",
    ):
        assert closed.send("GET", "/api/live", Cookie=f"{name}={forged.encode().decode('latin-1')}")[0] == 401
    assert closed.send("GET", "/api/live", Cookie=f"linewatch-1={value}")[0] == 401
    code, _, headers = closed.post("/logout", b"", Cookie=cookie, Content_Type=None)
    assert (code, headers["Location"]) == (303, "/login")
    assert headers["Set-Cookie"].startswith(f"{name}=; Path=/; Max-Age=0;")
    assert closed.send("GET", "/api/live", Cookie=cookie)[0] == 200
    (tmp_path / "token").write_text("another-token-of-16")
    assert closed.send("GET", "/api/live", Cookie=cookie)[0] == 401, "a new token ends all sessions"
    (tmp_path / "token").unlink()
    assert closed.send("GET", "/api/live", Cookie=cookie)[0] == 401
    assert log_in(closed)[0] == 403


def test_without_a_token_there_is_nothing_to_log_in_to(site: Served) -> None:
    code, _, headers = site.send("GET", "/login")
    assert (code, headers["Location"]) == (303, "/")
    assert "Linewatch-Login" not in site.send("GET", "/api/live")[2]


def test_the_page_can_be_left_out() -> None:
    with served(page=False) as one:
        assert one.send("GET", "/metrics")[:2] == (200, b"hello")
        for path in ("/", "/api/live", "/app.js", "/login"):
            assert one.send("GET", path)[0] == 404
        assert one.post("/api/request/ack")[0] == 404
        assert one.asked == []
