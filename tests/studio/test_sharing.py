"""Raters from outside over real connections: addresses, TLS, limits, slow clients, and what a link
does not open."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import io
import json
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from skipguide.runs import Run
from skipguide.studio import access, app, certificate, connections, qr, sharing
from skipguide.studio.access import Policy
from skipguide.studio.limits import Buckets, Limits, address_key
from support.clock import Clock
from support.served import Verb, free_port

TOKEN = Policy("owner").rater_token
FOR_RATERS = Policy("owner", names=frozenset({"raters.example"}), raters_only=True)


# --- addresses ------------------------------------------------------------------------------------


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with two cards, a bridge to containers, a tunnel, and a card that is down."""
    cards = {
        "lo": ["127.0.0.1", "::1"],
        "docker0": ["172.17.0.1"],
        "eth1": ["10.9.0.4"],
        "wlan0": ["fd00::7", "fe80::1%wlan0", "192.168.1.5"],
        "tun0": ["10.8.0.2"],
        "eth2": ["192.168.7.7"],
    }
    addresses = {
        name: [SimpleNamespace(address=text) for text in texts] for name, texts in cards.items()
    }
    states = {name: SimpleNamespace(isup=name != "eth2") for name in cards}
    monkeypatch.setattr(psutil, "net_if_addrs", lambda: addresses)
    monkeypatch.setattr(psutil, "net_if_stats", lambda: states)
    monkeypatch.setattr(sharing, "_outgoing", lambda: iter(["192.168.1.5", "fd00::7"]))


@pytest.mark.usefixtures("network")
def test_the_address_in_the_network_is_that_of_the_way_out() -> None:
    assert [str(one) for one in sharing.own_addresses()] == [
        "192.168.1.5 (wlan0)", "fd00::7 (wlan0)", "10.9.0.4 (eth1)",
        "172.17.0.1 (docker0)", "10.8.0.2 (tun0)",
    ]  # fmt: skip
    place = sharing.find_place("lan")
    assert (place.name, place.listen, place.leaves_machine) == ("192.168.1.5", "192.168.1.5", True)
    assert place.told.startswith("Raters reach this machine at 192.168.1.5 (wlan0). It has others,")
    assert "10.9.0.4 (eth1)" in place.told


@pytest.mark.usefixtures("network")
@pytest.mark.parametrize(
    ("share", "name", "listen", "told"),
    [
        ("fd00::7", "fd00::7", "fd00::7", "at fd00::7 (wlan0)"),
        ("[fd00:0::7]", "fd00::7", "fd00::7", "at fd00::7 (wlan0)"),
        ("10.9.0.4", "10.9.0.4", "10.9.0.4", "at 10.9.0.4 (eth1)"),
        ("127.0.0.1", "127.0.0.1", "127.0.0.1", "Nobody else reaches it"),
        ("203.0.113.9", "203.0.113.9", "0.0.0.0", "a router, must pass connections on"),
        ("2001:db8::5", "2001:db8::5", "::", "a router, must pass connections on"),
        ("localhost", "localhost", "127.0.0.1", "Nobody else reaches it"),
    ],
)
def test_an_address_of_ones_own(share: str, name: str, listen: str, told: str) -> None:
    place = sharing.find_place(share)
    assert (place.name, place.listen.replace("::1", "127.0.0.1"), told in place.told) == (
        name, listen, True,
    )  # fmt: skip


def test_a_machine_in_no_network_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharing, "own_addresses", list)
    with pytest.raises(ValueError, match="--share lan needs a network"):
        sharing.find_place("lan")
    for share in ("nobody.invalid", "0.0.0.0"):
        with pytest.raises(ValueError, match=r"one of this machine\.$"):
            sharing.find_place(share)


def test_an_address_of_ipv6_stands_in_brackets() -> None:
    assert sharing.url_of("fd00::7", 8701, True) == "https://[fd00::7]:8701"
    assert sharing.url_of("10.9.0.4", 80, False) == "http://10.9.0.4:80"


# --- certificates ---------------------------------------------------------------------------------


@contextlib.contextmanager
def tls_server(found: certificate.Certificate) -> Iterator[int]:
    """A server of one handshake after the other, by Python's own ssl; its port."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(found.file, found.key)
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                taken, _ = listener.accept()
                with contextlib.suppress(OSError):
                    context.wrap_socket(taken, server_side=True).close()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield listener.getsockname()[1]
    listener.close()
    thread.join(1)


def handshake(port: int, cafile: Path, name: str) -> bytes:
    """Shake hands as a browser does that trusts the certificate; the certificate in DER."""
    context = ssl.create_default_context(cafile=str(cafile))
    plain = socket.create_connection(("127.0.0.1", port))
    with plain, context.wrap_socket(plain, server_hostname=name) as secure:
        found = secure.getpeercert(binary_form=True)
    assert found is not None
    return found


def test_a_certificate_is_for_its_names_alone(tmp_path: Path, state: Path) -> None:
    """OpenSSL says for which names it holds."""
    found = certificate.load_own(tmp_path, ["127.0.0.1", "raters.example", "fd00::7"])
    assert found.file.parent == state.parent / "tls"
    assert found.file.stat().st_mode & 0o777 == 0o600
    with tls_server(found) as port:
        for name in ("127.0.0.1", "raters.example", "fd00::7"):
            der = handshake(port, found.file, name)
        for name in ("127.0.0.2", "localhost", "example"):
            with pytest.raises(ssl.SSLCertVerificationError):
                handshake(port, found.file, name)
    digest = hashlib.sha256(der).hexdigest().upper()
    assert found.fingerprint == ":".join(digest[i : i + 2] for i in range(0, 64, 2))
    days = (found.until.timestamp() - time.time()) / 86400
    assert 80 < days < 100


def test_a_certificate_is_kept_until_it_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["10.0.0.5"]
    first = certificate.load_own(tmp_path / "a", names)
    assert (first.is_own, first.told) == (True, "")
    again = certificate.load_own(tmp_path / "a", names)
    assert (again.fingerprint, again.told) == (first.fingerprint, "")
    assert certificate.load_own(tmp_path / "b", names).fingerprint != first.fingerprint
    moved = certificate.load_own(tmp_path / "a", ["10.0.0.6"])
    assert moved.fingerprint != first.fingerprint
    assert certificate.load_own(tmp_path / "a", names).fingerprint == first.fingerprint
    monkeypatch.setattr(certificate, "DAYS", 5)
    short = certificate.load_own(tmp_path / "c", names)
    renewed = certificate.load_own(tmp_path / "c", names)
    assert renewed.fingerprint != short.fingerprint
    assert "The certificate of before ends on" in renewed.told
    renewed.file.chmod(0o644)
    assert "could be read by others" in certificate.load_own(tmp_path / "c", names).told
    renewed.file.write_bytes(renewed.file.read_bytes()[:-200])
    assert (
        "The certificate of before is damaged" in certificate.load_own(tmp_path / "c", names).told
    )


def parts(found: certificate.Certificate, folder: Path) -> tuple[Path, Path]:
    """The certificate and the key in files of their own."""
    both = found.file.read_text()
    at = both.index("-----BEGIN CERTIFICATE")
    (folder / "key.pem").write_text(both[:at])
    (folder / "cert.pem").write_text(both[at:])
    return folder / "cert.pem", folder / "key.pem"


def test_a_certificate_that_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = certificate.load_own(tmp_path, ["raters.example"])
    cert, key = parts(own, tmp_path)
    for given in ((cert, key), (own.file, own.file)):
        found = certificate.load_given(*given, "raters.example")
        assert (found.fingerprint, found.is_own, found.told) == (own.fingerprint, False, "")
    other = certificate.load_given(cert, key, "10.0.0.5")
    assert other.told.startswith("The certificate is for raters.example, not for 10.0.0.5:")
    foreign = certificate.load_own(tmp_path / "other", ["raters.example"])
    with pytest.raises(ValueError, match="--cert and --key must be PEM files"):
        certificate.load_given(cert, foreign.file, "raters.example")
    locked = tmp_path / "locked.pem"
    locked.write_bytes(_locked(key))
    with pytest.raises(ValueError, match="of its key without a passphrase"):
        certificate.load_given(cert, locked, "raters.example")
    with pytest.raises(ValueError, match="--key must be a PEM file, but"):
        certificate.load_given(cert, tmp_path / "none.pem", "raters.example")
    monkeypatch.setattr(certificate, "DAYS", -0.01)
    ended, ended_key = parts(certificate.load_own(tmp_path / "ended", ["a"]), tmp_path)
    with pytest.raises(ValueError, match="--cert must be valid now"):
        certificate.load_given(ended, ended_key, "a")


def _locked(key: Path) -> bytes:
    from cryptography.hazmat.primitives import serialization as form

    return form.load_pem_private_key(key.read_bytes(), None).private_bytes(
        form.Encoding.PEM, form.PrivateFormat.PKCS8, form.BestAvailableEncryption(b"secret")
    )


@pytest.mark.parametrize(
    ("name", "holds"),
    [("a.lab.org", True), ("lab.org", False), ("a.b.lab.org", False), ("x.org", False)],
)
def test_a_certificate_for_all_of_a_domain(name: str, holds: bool) -> None:
    assert certificate._is_for(name, {"*.lab.org"}) is holds


# --- the server for raters, over real connections -------------------------------------------------


class Outside:
    """A server for raters of a run, at a port of this machine."""

    def __init__(self, folder: Path, found: certificate.Certificate | None = None) -> None:
        listener = socket.create_server(("127.0.0.1", 0))
        self.port = listener.getsockname()[1]
        files = (str(found.file), str(found.key)) if found else None
        self.limits = Limits()
        made = app.create_rater_app(folder, FOR_RATERS, limits=self.limits)
        self.server, self.listener = connections.SharedServer(made, listener, files), listener

    def __enter__(self) -> Outside:
        self.server.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.__exit__()
        self.listener.close()

    def raw(self, text: bytes, timeout: float = 10.0) -> socket.socket:
        made = socket.create_connection(("127.0.0.1", self.port), timeout)
        made.sendall(text)
        return made


def read_all(made: socket.socket) -> bytes:
    """Read until the server closes the connection."""
    found = b""
    with contextlib.suppress(ConnectionError):
        while part := made.recv(65536):
            found += part
    made.close()
    return found


HEAD = (
    f"Host: 127.0.0.1\r\nAuthorization: Bearer {TOKEN}\r\nContent-Type: application/json\r\n"
).encode()


def test_the_test_goes_over_tls_and_nothing_else_does(painted_run: Path) -> None:
    found = certificate.load_own(painted_run, ["127.0.0.1"])
    with Outside(painted_run, found) as outside:
        trusting = ssl.create_default_context(cafile=str(found.file))
        web = http.client.HTTPSConnection("127.0.0.1", outside.port, context=trusting, timeout=20)
        web.request("GET", f"/vote?token={TOKEN}")
        entered = web.getresponse()
        entered.read()
        cookie = entered.headers["Set-Cookie"]
        assert entered.status == 303
        assert {"HttpOnly", "SameSite=Lax", "Secure"} <= set(cookie.split("; "))
        headers = {"Cookie": cookie.partition(";")[0]}
        web.request("GET", "/api/study", headers=headers)
        told = {"study": None, "needs_codes": True, "what": "video"}
        assert json.loads(web.getresponse().read()) == told
        web.close()
        with pytest.raises(ssl.SSLCertVerificationError):  # who does not trust it is told
            http.client.HTTPSConnection("127.0.0.1", outside.port, timeout=20).connect()
        assert b"200" not in read_all(outside.raw(b"GET /vote HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"))
        old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
        with pytest.warns(DeprecationWarning, match="TLSv1_1"):
            old.maximum_version = ssl.TLSVersion.TLSv1_1
        made = socket.create_connection(("127.0.0.1", outside.port))
        with made, pytest.raises(ssl.SSLError):
            old.wrap_socket(made)


SECRET_PATHS = [
    "/api/run", "/api/counts", "/votes.csv", "/votes.json", "/api/trials", "/images/1", "/qr.svg",
    "/api/raters", "/clips/{key}.mp4", "/ledger.sqlite", "/static/../ledger.sqlite",
    "/static/..%2fledger.sqlite", "/study/../ledger.sqlite", "/study/..%2f..%2fetc%2fpasswd.mp4",
    "/study/{key}.mp4", "//etc/passwd", "/static/%2e%2e/%2e%2e/ledger.sqlite", "/docs",
    "/openapi.json", "/checks/x.mp4", "/videos/{key}.mp4",
]  # fmt: skip


def test_a_raters_link_opens_nothing_else(painted_run: Path) -> None:
    with Run.open(painted_run) as run:
        clip = run.clips("done")[0]
        names = [setting.name for setting in run.settings()]
    with Outside(painted_run) as outside:
        for path in SECRET_PATHS:
            line = f"GET {path.format(key=clip.key)} HTTP/1.1\r\nConnection: close\r\n".encode()
            told = read_all(outside.raw(line + HEAD + b"\r\n"))
            assert told.split()[1] in (b"404", b"422"), (path, told[:300])
            assert not [name for name in names if name.encode() in told], path
        for method in ("DELETE", "PUT", "POST", "PATCH", "OPTIONS", "TRACE"):
            line = f"{method} /api/raters?name=Ann HTTP/1.1\r\nConnection: close\r\n".encode()
            told = read_all(outside.raw(line + HEAD + b"Content-Length: 0\r\n\r\n"))
            assert told.split()[1] == b"404", method


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ((b"Host: 127.0.0.1", b"Host: evil.example"), b"421"),  # DNS that was bent
        ((b"Host: 127.0.0.1", b"Host: 192.0.2.99"), b"421"),  # an address of another machine
        ((b"Host: 127.0.0.1", b"Host: raters.example.evil.org"), b"421"),
        ((b"Content-Type: application/json", b"Origin: http://evil.example"), b"403"),
        ((b"Content-Type: application/json", b"Sec-Fetch-Site: cross-site"), b"403"),
        ((b"Content-Type: application/json", b"Content-Type: text/plain"), b"415"),
        ((b"Content-Type: application/json", b"Content-Type: multipart/form-data"), b"415"),
        ((TOKEN.encode(), b"owner"), b"401"),  # the studio's own token opens nothing here
        ((TOKEN.encode(), TOKEN[:-1].encode()), b"401"),
        ((b"Authorization: Bearer", b"X: "), b"401"),
    ],
)
def test_other_pages_and_names_cannot_vote(
    painted_run: Path, change: tuple[bytes, bytes], status: bytes
) -> None:
    body = b'{"rater": "Ann", "key": "0123456789abcdef"}'
    with Outside(painted_run) as outside:
        line = b"POST /api/study/remove HTTP/1.1\r\nConnection: close\r\n"
        more = f"Content-Length: {len(body)}\r\n\r\n".encode() + body
        told = read_all(outside.raw(line + HEAD.replace(*change) + more))
        assert told.split()[1] == status, told


def test_slow_and_greedy_clients_are_let_go(
    painted_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "HEAD_SECONDS", 0.4)
    monkeypatch.setattr(connections, "MOST_OF_ADDRESS", 8)
    monkeypatch.setattr(access, "BODY_SECONDS", 0.4)
    post = b"POST /api/study/remove HTTP/1.1\r\n" + HEAD
    with Outside(painted_run) as outside:
        began = time.monotonic()
        silent = outside.raw(b"")
        slow = outside.raw(b"GET /vote HTTP/1.1\r\nHost:")
        second = outside.raw(b"GET /api/study HTTP/1.1\r\n" + HEAD + b"\r\n")
        assert second.recv(65536).startswith(b"HTTP/1.1 200")
        second.sendall(b"GET /vote HTTP/1.1\r\nHo")
        waits = outside.raw(post + b"Content-Length: 50\r\n\r\n{")
        assert read_all(silent) == read_all(slow) == b""
        read_all(second)  # the next head did not come either
        assert b"408" in read_all(waits).split(b"\r\n")[0]
        assert time.monotonic() - began < 4
        large = outside.raw(post + b"Content-Length: 70000\r\n\r\n")
        assert b"413" in large.recv(1000).split(b"\r\n")[0]
        endless = outside.raw(post + b"Transfer-Encoding: chunked\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            for _ in range(8):
                endless.sendall(b"4000\r\n" + b"x" * 0x4000 + b"\r\n")
        assert b"413" in endless.recv(1000).split(b"\r\n")[0]
        head = outside.raw(b"GET /vote HTTP/1.1\r\n" + b"X: " + b"y" * 40_000)
        assert b"400" in read_all(head).split(b"\r\n")[0]
        for made in (large, endless):
            made.close()
        time.sleep(0.5)
        several = [outside.raw(b"GET /vote HTTP/1.1\r\n") for _ in range(12)]
        refused = 0
        for made in several[8:]:
            refused += read_all(made) == b""
        assert refused == 4
        for made in several[:8]:
            made.close()


def test_who_does_not_read_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "READ_SECONDS", 0.3)
    ended = threading.Event()

    async def endless(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        try:
            for _ in range(1000):
                body = b"x" * 1_000_000
                await send({"type": "http.response.body", "body": body, "more_body": True})
        finally:
            ended.set()

    listener = socket.create_server(("127.0.0.1", 0))
    with listener, connections.SharedServer(endless, listener, None):
        made = socket.create_connection(listener.getsockname())
        made.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert ended.wait(10)  # uvicorn alone would wait for ever
        assert 0 < len(read_all(made)) < 100_000_000


def test_what_a_rater_is_told_of_an_error_names_no_run_and_no_path(
    painted_copy: Path, clock_web: TestClient
) -> None:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    body = {"rater": "Ann", "key": "0123456789abcdef", "kind": "pair", "settings": [1, 2]}
    begun = clock_web.post("/api/study/begin", json=body, headers=headers)
    assert begun.status_code == 200
    for trick, status in (("damage", (400, 503)), ("move", (410,))):
        if trick == "damage":
            (painted_copy / "ledger.sqlite").write_bytes(b"no ledger" * 1000)
            for name in ("-wal", "-shm"):
                (painted_copy / f"ledger.sqlite{name}").unlink(missing_ok=True)
        else:
            painted_copy.rename(painted_copy.with_name("elsewhere"))
        told = clock_web.post("/api/study/next", json=body, headers=headers)
        assert told.status_code in status
        assert str(painted_copy.parent) not in told.text
        assert painted_copy.name not in told.text
        assert "whoever holds it" in told.text


@pytest.fixture
def clock_web(painted_copy: Path) -> TestClient:
    return browser(painted_copy, Clock())


def test_strangers_begin_before_they_vote(clock_web: TestClient, painted_copy: Path) -> None:
    """Names that nobody took would pass by the limits of raters, and of names from one address."""
    headers = {"Authorization": f"Bearer {TOKEN}"}
    body = {"rater": "Nobody", "kind": "pair", "settings": [1, 2]}
    for more in ({}, {"key": "0123456789abcdef"}):
        refused = clock_web.post("/api/study/next", json={**body, **more}, headers=headers)
        assert refused.status_code == 403
        assert "a name must be taken before anything is asked under it" in refused.text
    answered = {"rater": "Nobody", "task": "0" * 39, "answers": {"preference": "tie"}}
    assert clock_web.post("/api/study/answer", json=answered, headers=headers).status_code == 403
    with Run.open(painted_copy) as run:
        assert (run.votes(), run.rater_keys()) == ([], {})


def test_thousands_of_ranges_are_no_work(painted_copy: Path, clock_web: TestClient) -> None:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    body = {"rater": "Ann", "key": "0123456789abcdef", "kind": "pair", "settings": [1, 2]}
    clock_web.post("/api/study/begin", json=body, headers=headers)
    task = clock_web.post("/api/study/next", json=body, headers=headers).json()["task"]
    path = f"/{task['videos'][0]['url']}"
    ranges = {"Range": "bytes=" + ",".join(f"{i}-{i}" for i in range(0, 4000, 2))}
    told = clock_web.get(path, headers={**headers, **ranges})
    assert (told.status_code, told.content[4:8]) == (200, b"ftyp")
    assert clock_web.get(path, headers={**headers, "Range": "bytes=4-7"}).content == b"ftyp"


# --- limits ---------------------------------------------------------------------------------------


def test_a_bucket_fills_again() -> None:
    clock = Clock()
    buckets = Buckets(3, 0.5, clock)
    assert [buckets.take("a") for _ in range(5)] == [0, 0, 0, 2.0, 2.0]
    assert buckets.take("b") == 0  # of another
    clock.now += 1
    assert buckets.take("a") == pytest.approx(1.0)
    clock.now += 1
    assert (buckets.take("a"), buckets.take("a", 0)) == (0, 2.0)  # looking takes nothing
    clock.now += 1000
    assert [buckets.take("a") for _ in range(4)] == [0, 0, 0, 2.0]
    clock.now -= 500  # a clock that is set back gives nothing away
    assert buckets.take("a") == 2.0


def test_buckets_do_not_grow_without_end() -> None:
    buckets = Buckets(1, 1, Clock())
    for number in range(10_000):
        buckets.take(str(number))
    assert len(buckets._levels) == 4096


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("2001:db8::1", "2001:db8::ffff:1", True),  # everybody has a whole network of 64 bits
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("::ffff:10.0.0.5", "10.0.0.5", True),
        ("10.0.0.5", "10.0.0.6", False),
        ("fe80::1%eth0", "fe80::2%eth1", True),
    ],
)
def test_what_counts_as_one_address(one: str, other: str, same: bool) -> None:
    assert (address_key(one) == address_key(other)) is same


def browser(folder: Path, clock: Clock, address: str = "192.0.2.7") -> TestClient:
    made = app.create_rater_app(folder, FOR_RATERS, clock, Limits(clock))
    return TestClient(made, base_url="https://raters.example", client=(address, 5000))


def test_who_tries_links_has_to_wait(painted_run: Path) -> None:
    clock = Clock()
    web = browser(painted_run, clock)
    other = TestClient(web.app, base_url="https://raters.example", client=("192.0.2.8", 5000))
    answers = [web.get("/vote", params={"token": f"{i:032x}"}) for i in range(45)]
    assert [answer.status_code for answer in answers] == [401] * 40 + [429] * 5
    refused = answers[-1]
    assert refused.headers["retry-after"] == "5"
    assert refused.json()["error"] == (
        "too many wrong links came from this address. Wait 5 s, then go on; nothing is lost."
    )
    # Others behind the same address have the right one, which nobody finds by trying.
    assert web.get("/vote", params={"token": TOKEN}).status_code == 200
    assert web.get("/vote", headers={"Authorization": f"Bearer {TOKEN}"}).status_code == 200
    web.cookies.clear()
    assert web.get("/vote", params={"token": "0" * 32}).status_code == 429
    assert other.get("/vote", params={"token": TOKEN}).status_code == 200
    clock.now += 5
    assert web.get("/vote", params={"token": TOKEN}).status_code == 200
    for _ in range(60):  # without a link nothing is tried
        other.get("/static/vote.js", headers={"Cookie": ""})
    assert other.get("/vote").status_code == 200


def test_a_short_word_of_the_owner_is_not_found_by_trying(painted_run: Path) -> None:
    made = app.create_app(painted_run, Policy("cat", loopback=False))
    web = TestClient(made, base_url="http://10.0.0.5:8700")
    for number in range(40):
        headers = {"Authorization": f"Bearer {number}"}
        assert web.get("/api/run", headers=headers).status_code == 401
    assert web.get("/api/run", headers={"Authorization": "Bearer cat"}).status_code == 429


def test_one_address_and_one_rater_can_ask_so_much(painted_copy: Path) -> None:
    clock = Clock()
    web = browser(painted_copy, clock)
    headers = {"Authorization": f"Bearer {TOKEN}"}
    body = {"rater": "Ann", "key": "0123456789abcdef", "kind": "pair", "settings": [1, 2]}
    for name in ("Ann", "Bob"):
        web.post("/api/study/begin", json={**body, "rater": name}, headers=headers)
    asked = [web.post("/api/study/next", json=body, headers=headers) for _ in range(62)]
    assert [answer.status_code for answer in asked] == [200] * 60 + [429] * 2
    assert asked[-1].json()["error"].startswith("too many requests came under this name. Wait 1 s")
    other = web.post("/api/study/next", json={**body, "rater": "Bob"}, headers=headers)
    assert other.status_code == 200
    limits = Limits(clock)
    for _ in range(600):
        limits.check_request("10.0.0.5")
    with pytest.raises(Exception, match="too many requests came from this address"):
        limits.check_request("10.0.0.5")
    for _ in range(60):
        limits.check_newcomer("10.0.0.5")
    with pytest.raises(Exception, match="too many names were taken at this address"):
        limits.check_newcomer("10.0.0.5")


def test_a_token_cannot_be_found_from_the_link_for_raters() -> None:
    """A rater who tries words needs so long for each that none but the weakest are found."""
    began = time.process_time()
    for number in range(3):
        assert Policy(f"word-{number}").rater_token != TOKEN
    assert (time.process_time() - began) / 3 > 0.01  # a plain hash takes a thousandth of it


# --- QR codes -------------------------------------------------------------------------------------

LINK = f"https://[fd00::7]:8701/vote?token={TOKEN}#kind=pair&settings=1,2,3"


def modules(text: str, halves: str) -> list[list[bool]]:
    """Return which modules of a QR code of half blocks are dark."""
    above = {halves[0]: (0, 0), halves[1]: (0, 1), halves[2]: (1, 0), halves[3]: (1, 1)}
    rows = []
    for line in text.splitlines():
        rows.append([bool(above[letter][0]) for letter in line])
        rows.append([bool(above[letter][1]) for letter in line])
    return rows


def test_a_code_is_the_same_in_the_terminal_and_as_a_picture() -> None:
    with Image.open(io.BytesIO(qr.to_png(LINK))) as picture:
        scale, grey = 10, picture.convert("L")
        size = grey.width // scale
        dark = [
            [grey.getpixel((x * scale + 5, y * scale + 5)) == 0 for x in range(size)]
            for y in range(size)
        ]
    plain = modules(qr.to_terminal(LINK, colours=False), "█▀▄ ")
    coloured = qr.to_terminal(LINK, colours=True)
    assert coloured.count("\x1b[38;5;16;48;5;231m") == coloured.count("\x1b[0m")
    stripped = coloured.replace("\x1b[38;5;16;48;5;231m", "").replace("\x1b[0m", "")
    assert plain[:size] == modules(stripped, " ▄▀█")[:size] == dark
    quiet = [row[:4] + row[-4:] for row in dark] + dark[:4] + dark[-4:]
    assert not any(any(row) for row in quiet)  # four modules on each side, as ISO 18004 asks for
    finder = [[dark[4 + y][4 + x] for x in range(7)] for y in range(7)]
    assert [sum(row) for row in finder] == [7, 2, 5, 5, 5, 2, 7]
    assert qr.to_svg(LINK).startswith(b"<?xml")


def test_codes_are_for_who_holds_the_test(painted_run: Path) -> None:
    policy = Policy("owner", loopback=False)
    web = TestClient(app.create_app(painted_run, policy), base_url="http://10.0.0.5:8700")
    own = {"Authorization": "Bearer owner"}
    for ending, kind in (("svg", "image/svg+xml"), ("png", "image/png")):
        told = web.get(f"/qr.{ending}", params={"text": LINK}, headers=own)
        assert (told.status_code, told.headers["content-type"]) == (200, kind)
        raters = {"Authorization": f"Bearer {policy.rater_token}"}
        assert web.get(f"/qr.{ending}", params={"text": LINK}, headers=raters).status_code == 401
    assert web.get("/qr.svg", params={"text": "x" * 1001}, headers=own).status_code == 422


# --- the verb -------------------------------------------------------------------------------------


@pytest.mark.long
def test_the_verb_shares_over_tls(painted_copy: Path, tmp_path: Path) -> None:
    own = certificate.load_own(tmp_path, ["127.0.0.1"])
    port = free_port()
    options = ("--no-trials", "--share", "127.0.0.1", "--share-port", str(port))
    options += ("--cert", str(own.file), "--tasks", "3", "--checks", "2")
    server = Verb(painted_copy, free_port(), *options)
    try:
        assert server.process.stdout is not None
        link = server.process.stdout.readline().strip()
        assert link.startswith(f"https://127.0.0.1:{port}/vote?token=")
        trusting = ssl.create_default_context(cafile=str(own.file))
        web = http.client.HTTPSConnection("127.0.0.1", port, context=trusting, timeout=20)
        headers = {"Authorization": f"Bearer {link.partition('token=')[2]}"}
        web.request("GET", "/api/study", headers=headers)
        told = json.loads(web.getresponse().read())
        assert told["study"] == {"kind": "pair", "tasks": 5, "consent": None}
        web.close()
        studio = http.client.HTTPConnection(server.address.split("/")[2], timeout=20)
        studio.request("GET", "/api/run")
        run = json.loads(studio.getresponse().read())
        assert (run["sharing"]["link"], run["sharing"]["fingerprint"]) == (link, own.fingerprint)
        assert (run["study"]["tasks"], run["study"]["checks"]) == (3, 2)
        studio.close()
    finally:
        server.kill()
