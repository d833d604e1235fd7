import ipaddress
import itertools
import socket
import threading
import time
from urllib.parse import urlsplit

import gevent
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from urllib3.util import parse_url

from api import outgoing
from api.outgoing import CallFailed, Calls, check_url, urls
from api.outgoing.addresses import allowed
from api.outgoing.names import Names

PUBLIC = [
    *("1.1.1.1", "8.8.8.8", "93.184.215.14", "100.63.255.255", "100.128.0.0", "172.15.255.255", "172.32.0.0"),
    *("126.255.255.255", "128.0.0.0", "169.253.255.255", "169.255.0.0", "192.167.255.255", "192.169.0.0"),
    *("198.17.255.255", "198.20.0.0", "223.255.255.255", "2606:4700:4700::1111", "2a00:1450:4001:80b::200e"),
    *("::ffff:8.8.8.8", "64:ff9b::8.8.8.8", "2001:200::1"),
]
DEVELOPMENT = [
    *("127.0.0.1", "127.255.255.254", "10.0.0.0", "10.255.255.255", "172.16.0.1", "172.31.255.255", "192.168.0.1"),
    *("192.168.255.255", "100.64.0.1", "100.127.255.255", "::1", "fc00::1", "fdff::1", "::ffff:127.0.0.1"),
    *("::ffff:10.1.2.3", "64:ff9b::127.0.0.1", "64:ff9b::c0a8:1"),
]
NEVER = [
    *("0.0.0.0", "0.1.2.3", "169.254.169.254", "169.254.0.1", "192.0.0.1", "192.0.0.192", "192.0.2.1", "192.88.99.1"),
    *("198.18.0.1", "198.19.255.255", "198.51.100.7", "203.0.113.9", "224.0.0.1", "239.255.255.255", "240.0.0.1"),
    *(
        "255.255.255.255",
        "100.100.100.200",
        "168.63.129.16",
        "::",
        "::127.0.0.1",
        "::8.8.8.8",
        "::ffff:169.254.169.254",
    ),
    *("::ffff:0.0.0.0", "64:ff9b::a9fe:a9fe", "64:ff9b:1::1", "100::1", "2001::1", "2001:db8::1", "2002:7f00:1::"),
    *("2002:808:808::1", "2001:0:4136:e378:8000:63bf:3fff:fdd2", "2001:10::1", "3fff::1", "5f00::1", "fe80::1"),
    *("fe80::1%2", "fec0::1", "ff02::1", "fd00:ec2::254", "fd20:ce::254", "4000::1", "8000::1", "::1:0:0"),
]


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses_are_called(address):
    assert allowed(address, private=False)
    assert allowed(address, private=True)


@pytest.mark.parametrize("address", DEVELOPMENT)
def test_private_addresses_are_called_in_development_only(address):
    assert not allowed(address, private=False)
    assert allowed(address, private=True)


@pytest.mark.parametrize("address", NEVER)
def test_what_belongs_to_no_server_is_never_called(address):
    assert not allowed(address, private=False)
    assert not allowed(address, private=True)


@settings(max_examples=500)
@given(st.ip_addresses())
def test_what_is_allowed_is_global_to_python_too(address):
    if allowed(str(address), private=False):
        inner = ipaddress.ip_address(address)
        if inner.version == 6 and (inner.ipv4_mapped or inner in ipaddress.ip_network("64:ff9b::/96")):
            inner = ipaddress.IPv4Address(int(inner) & 0xFFFFFFFF)
        assert inner.is_global
        assert not any((inner.is_multicast, inner.is_loopback, inner.is_private, inner.is_reserved))


# ---- URLs


def spellings(address):
    """Return how an IPv4 address has been written by those who wanted to get past a filter."""
    octets = [int(octet) for octet in address.split(".")]
    number = int(ipaddress.IPv4Address(address))
    forms = [str, lambda n: f"0{n:o}", lambda n: f"{n:#x}", lambda n: f"000{n:o}", lambda n: f"0X{n:X}"]
    for choice in itertools.product(forms[:3], repeat=4):
        yield ".".join(form(octet) for form, octet in zip(choice, octets, strict=True))
    for form in forms:
        yield form(number)
        yield f"{form(octets[0])}.{form(number & 0xFFFFFF)}"
        yield f"{form(octets[0])}.{form(octets[1])}.{form(number & 0xFFFF)}"
    yield str(number + 2**32)
    yield f"{address}."
    yield f"{address}.."
    for wide in ("[::ffff:%s]", "[::%s]", "[64:ff9b::%s]", "[0:0:0:0:0:ffff:%s]", "[::ffff:0:%s]", "[64:ff9b:1::%s]"):
        yield wide % address
    high, low = number >> 16, number & 0xFFFF
    yield f"[::ffff:{high:x}:{low:x}]"
    yield f"[2002:{high:x}:{low:x}::1]"
    yield f"[2001:0:1:2:3:4:{high ^ 0xFFFF:x}:{low ^ 0xFFFF:x}]"
    yield f"[{address}]"
    yield f"user@{address}"
    yield f"example.com@{address}"
    yield f"example.com:80@{address}"
    yield f"{address}%00.example.com"
    yield f"{address}%2eexample.com"
    yield f"{address}\\.example.com"
    yield f"{address}#.example.com"
    yield address.translate({ord(digit): 0xFF10 + int(digit) for digit in "0123456789"})
    yield address.replace(".", "\u3002")
    yield f" {address}"
    yield f"{address}\t"
    yield f"{address}\n"


@pytest.mark.parametrize("address", ["127.0.0.1", "10.1.2.3", "169.254.169.254", "192.168.1.1", "0.0.0.0"])
def test_no_spelling_of_a_private_address_gets_past_the_check(address):
    tried = [*spellings(address)]
    assert len(tried) > 110
    for host in tried:
        for url in (f"http://{host}/x", f"https://{host}:8443/x"):
            with pytest.raises(ValueError) as caught:
                check_url(url, private=False)
            assert str(caught.value).endswith("."), url
            if host != address and "[" not in host:
                with pytest.raises(ValueError):
                    check_url(url, private=True)


@settings(max_examples=500)
@given(st.text("0123456789abcdefx.", min_size=1, max_size=20))
def test_what_the_system_reads_as_an_address_is_read_so_here(host):
    try:
        target = urls.read(f"http://{host}/")
    except ValueError:
        return
    try:
        meant = socket.inet_ntoa(socket.inet_aton(host))
    except OSError:
        meant = None
    assert (meant == host) == target.literal
    assert target.literal or meant is None


@settings(max_examples=500)
@given(st.text("aA1.:/@?#[]%\\-_ é0xf;&", max_size=24).map(lambda rest: f"http://{rest}"))
def test_every_reader_of_a_url_that_is_taken_sees_the_same_host(url):
    try:
        target = urls.read(url)
    except ValueError:
        return
    standard, other = urlsplit(url), parse_url(url)
    assert standard.hostname == target.host == other.host.strip("[]").lower()
    assert (standard.port or 80) == target.port == (other.port or 80)
    assert standard.username is other.auth is None


GOOD = {
    "https://api.example.com": ("https", "api.example.com", 443, "/", False),
    "HTTP://API.Example.COM:8080/Hooks/?a=%20b&c[]=1": ("http", "api.example.com", 8080, "/Hooks/?a=%20b&c[]=1", False),
    "http://vendor_1:1": ("http", "vendor_1", 1, "/", False),
    "https://xn--bcher-kva.example?x=1": ("https", "xn--bcher-kva.example", 443, "/?x=1", False),
    "https://8.8.8.8/": ("https", "8.8.8.8", 443, "/", True),
    "https://[2606:4700::1]:8443/": ("https", "2606:4700::1", 8443, "/", True),
}


@pytest.mark.parametrize("url", GOOD)
def test_an_honest_url_is_taken(url):
    check_url(url, private=False)
    assert urls.read(url) == GOOD[url]


BAD = {
    "": "begin with",
    "example.com/x": "begin with",
    "ftp://example.com/": "begin with",
    "file:///etc/passwd": "begin with",
    "gopher://example.com/": "begin with",
    "http:/example.com": "begin with",
    "http:///x": "no host",
    "http://:80/": "no host",
    "http://me:pw@example.com/": "user or a password",
    "http://example.com/#top": "fragment",
    "http://example.com\\@evil.com/": "backslash",
    "http://example.com/a b": "' '",
    "http://example.com/\r\nHost: evil": "contains",
    "http://bücher.example/": "xn--",
    "http://example.com:0/": "port",
    "http://example.com:65536/": "port",
    "http://example.com:/": "port",
    "http://example.com:80:80/": "no host",
    "http://example.com:08080808080/": "port",
    "http://-example.com/": "valid name",
    "http://example..com/": "valid name",
    "http://example.com./": "valid name",
    f"http://{'a' * 64}.com/": "valid name",
    f"http://{'a.' * 130}com/": "valid name",
    "http://example.1/": "valid address",
    "http://example.0x/": "valid address",
    "http://[::1/": "no host",
    "http://[fe80::1%25eth0]/": "no host",
    "http://[]/": "valid address",
    "http://example.com/{id}": "percent-encoded",
    "http://example.com/<x>": "percent-encoded",
    f"http://example.com/{'x' * 2048}": "longer",
    "http://localhost:3000/": "public Internet",
    "http://vendor.localhost/": "public Internet",
    "http://127.0.0.1/": "public Internet",
    "http://[::1]/": "public Internet",
}


@pytest.mark.parametrize("url", BAD)
def test_a_url_that_is_refused_is_told_why(url):
    with pytest.raises(ValueError, match=BAD[url]):
        check_url(url, private=False)


def test_development_may_call_its_own_machine_and_never_the_metadata_of_a_cloud():
    for url in ("http://localhost:3000/", "http://127.0.0.1:3000/", "http://[::1]/", "https://192.168.1.7/"):
        check_url(url, private=True)
    with pytest.raises(ValueError, match="never called"):
        check_url("http://169.254.169.254/latest/meta-data", private=True)


# ---- names


def answering(*addresses):
    return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0)) for address in addresses]


def test_those_who_ask_for_a_name_at_once_share_one_lookup_that_is_kept_for_seconds(monkeypatch):
    asked = []

    def lookup(name, *arguments, **options):
        asked.append(name)
        time.sleep(0.05)
        return answering("192.0.2.1", "192.0.2.2", "192.0.2.1")

    names = Names(lookup)
    greenlets = [gevent.spawn(names.addresses, "example.com") for _ in range(20)]
    assert [greenlet.get(timeout=5) for greenlet in greenlets] == [("192.0.2.1", "192.0.2.2")] * 20
    assert asked == ["example.com"]
    monkeypatch.setattr("api.outgoing.names.KEPT_SECONDS", 0.0)
    names.addresses("example.com")
    assert len(asked) == 2


def test_a_name_that_hangs_takes_one_thread_and_lets_its_callers_and_the_other_names_go(monkeypatch):
    monkeypatch.setattr("api.outgoing.names.THREADS", 2)
    answers, asked = threading.Event(), []

    def lookup(name, *arguments, **options):
        asked.append(name)
        if name == "hangs":
            answers.wait(20)
        return answering("192.0.2.1")

    names = Names(lookup)
    waiting = [
        gevent.spawn(gevent.with_timeout, 0.05, names.addresses, "hangs", timeout_value="gave up") for _ in range(9)
    ]
    assert [greenlet.get(timeout=5) for greenlet in waiting] == ["gave up"] * 9
    assert gevent.with_timeout(5, names.addresses, "other") == ("192.0.2.1",)
    answers.set()
    assert gevent.with_timeout(5, names.addresses, "hangs") == ("192.0.2.1",)
    assert asked.count("hangs") == 1


@pytest.mark.parametrize(
    "fault", [socket.gaierror(-2, "Name or service not known"), UnicodeError("label too long"), None]
)
def test_a_name_without_an_address_is_asked_for_again(fault, capfd):
    asked = []

    def lookup(name, *arguments, **options):
        asked.append(name)
        if fault:
            raise fault
        return []

    names = Names(lookup)
    for _ in range(2):
        with pytest.raises(OSError):
            names.addresses("example.com")
    assert len(asked) == 2
    assert capfd.readouterr() == ("", "")


def test_not_every_name_ever_called_is_remembered(monkeypatch):
    monkeypatch.setattr("api.outgoing.names.MAX_NAMES", 3)
    names = Names(lambda *_, **__: answering("192.0.2.1"))
    for number in range(10):
        names.addresses(f"{number}.example")
    assert len(names._known) == 3


# ---- calls


@pytest.mark.parametrize(
    ("url", "addresses"),
    [
        ("http://example.com/", ["127.0.0.1"]),
        ("http://example.com/", ["8.8.8.8", "10.0.0.1"]),
        ("http://example.com/", ["10.0.0.1", "8.8.8.8"]),
        ("http://example.com/", ["::ffff:169.254.169.254"]),
        ("http://127.0.0.1/", []),
        ("http://2130706433/", []),
        ("http://[::ffff:7f00:1]/", []),
        ("ftp://example.com/", []),
    ],
)
def test_an_address_that_is_not_allowed_is_not_connected_to(monkeypatch, url, addresses):
    monkeypatch.setattr("api.outgoing.calls.connected", lambda *_: pytest.fail("connected"))
    with pytest.raises(CallFailed) as caught:
        Calls(lambda *_, **__: answering(*addresses)).post(url, b"", {}, seconds=5, private=False)
    assert caught.value.reason == "address"
    assert not any(address in str(caught.value) for address in addresses)
    assert all(address in caught.value.detail for address in addresses if address != "8.8.8.8")


@pytest.mark.parametrize(
    "headers",
    [
        {"X": "a\r\nY: b"}, {"X": "a\nb"}, {"X": "a\r\n b"}, {"X": "a\x00b"}, {"X": "\u0100"}, {"X": " a"},
        {"X": "a\n"}, {"X\r\nY": "b"}, {"X:": "b"}, {"": "b"}, {"X Y": "b"}, {"Ä": "b"},
        {"Host": "evil"}, {"hOST": "evil"}, {"Content-Length": "0"}, {"Transfer-Encoding": "chunked"},
        {"Connection": "x"}, {"Accept-Encoding": "gzip"}, {"Expect": "100-continue"},
        {"user-agent": "x"},
    ],
)  # fmt: skip
def test_a_header_is_one_header(headers):
    with pytest.raises(ValueError, match="header"):
        outgoing.post("http://127.0.0.1:1/", b"", headers, seconds=5, private=True)


def whole_request(sock):
    """Return all of a request: its head and its body are two packets."""
    heard = b""
    while part := sock.recv(65536):
        heard += part
        head, end, body = heard.partition(b"\r\n\r\n")
        length = [int(line[15:]) for line in head.split(b"\r\n") if line.startswith(b"Content-Length:")]
        if heard == b"stop" or (end and len(body) == length[0]):
            break
    return heard


@pytest.fixture(scope="module")
def vendor():
    """Answer each connection, after its first bytes, with what `vendor.says`, and hang up."""

    class Vendor:
        says = b""
        heard: list[bytes] = []

    def serve():
        while True:
            sock, _ = listener.accept()
            with sock:
                Vendor.heard.append(whole_request(sock))
                if Vendor.heard[-1] == b"stop":
                    return
                sock.sendall(Vendor.says)
                sock.shutdown(socket.SHUT_WR)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        Vendor.port = listener.getsockname()[1]
        Vendor.url = f"http://127.0.0.1:{Vendor.port}/hook?x=1"
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield Vendor
        with socket.create_connection(listener.getsockname()) as sock:
            sock.sendall(b"stop")
        thread.join(5)


@pytest.fixture(scope="module")
def calls():
    made = Calls()
    yield made
    made.close()


def test_a_call_says_what_it_should(vendor, calls):
    vendor.says = b"HTTP/1.1 201 Created\r\nContent-Length: 2\r\nX-One: 1\r\nConnection: close\r\n\r\n{}"
    reply = calls.post(vendor.url, b"[1]", {"Content-Type": "application/json", "X-y": "ü"}, seconds=5, private=True)
    assert (reply.status, reply.body, reply.headers["x-oNE"]) == (201, b"{}", "1")
    head, _, sent = vendor.heard[-1].partition(b"\r\n\r\n")
    lines = head.decode("latin1").split("\r\n")
    assert lines[0] == "POST /hook?x=1 HTTP/1.1"
    assert f"Host: 127.0.0.1:{vendor.port}" in lines
    assert {"Accept-Encoding: identity", "Content-Length: 3", "Content-Type: application/json", "X-y: ü"} <= set(lines)
    assert sum(line.lower().startswith("user-agent: walnut/") for line in lines) == 1
    assert len(lines) == 7
    assert sent == b"[1]"


STATUS = st.sampled_from(["HTTP/1.1 200 OK", "HTTP/1.0 200", "HTTP/1.1 100 Continue", "HTTP/1.1 103 X",
                          "HTTP/1.1 204 No", "HTTP/9.9 999 X", "HTTP/1.1 -1", "HTTP/1.1 2e2", "ICY", ""])  # fmt: skip
HEADER = st.sampled_from(["Content-Length: 3", "Content-Length: -3", "Content-Length: 1e9", "Content-Length: 3, 4",
                          "Content-Length: 99999999999999999999", "Transfer-Encoding: chunked", "Transfer-Encoding: x",
                          "Content-Encoding: gzip", "no colon", " folded: x", "X: \x00", ":", "Connection: close",
                          "Content-Type: multipart/mixed; boundary=x", "X: ü"])  # fmt: skip
BODY = st.sampled_from(["abc", "3\r\nabc\r\n0\r\n\r\n", "-1\r\nabc", "-5\r\nabc", "zz\r\n", "ffffffffffffffffff\r\n",
                        "3;x=y\r\nabc\r\n", "0\r\nX: y\r\n\r\n", "3\r\nabcX", ""])  # fmt: skip
LIKE_HTTP = st.builds(
    lambda *parts: "\r\n".join([*parts[0], *parts[1], "", parts[2]]).encode("latin1"),
    st.lists(STATUS, min_size=1, max_size=2), st.lists(HEADER, max_size=4), BODY,
)  # fmt: skip


@settings(max_examples=400, deadline=None)
@given(st.one_of(st.binary(max_size=200), LIKE_HTTP))
def test_whatever_comes_back_is_a_reply_or_a_failure_of_a_known_kind(vendor, calls, says):
    vendor.says = says
    try:
        reply = calls.post(vendor.url, b"{}", {}, seconds=5, private=True)
    except CallFailed as error:
        failed = error
    else:
        assert 200 <= reply.status <= 999
        assert reply.body in says or b"abc" in reply.body
        return
    assert failed.reason in ("connection", "malformed", "too_large"), failed.detail
    assert str(failed).endswith(".")


def test_no_time_is_no_call(vendor, calls):
    before = len(vendor.heard)
    for seconds in (0, -1):
        with pytest.raises(CallFailed) as caught:
            calls.post(vendor.url, b"", {}, seconds=seconds, private=True)
        assert caught.value.reason == "timeout"
    assert len(vendor.heard) == before
