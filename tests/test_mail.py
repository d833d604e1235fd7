"""Mail, handed to a real SMTP server or put into the outbox."""

import logging
import os
import socket
import stat
import threading
import time
from contextlib import contextmanager, suppress
from email import message_from_bytes
from email.policy import default

import pytest

from api import db, housekeeping, mail_addresses, smtp
from api.errors import Invalid
from api.jobs import mail, outbox, outcomes, queue
from api.jobs.kinds import KINDS, Again, Done, Failed, Job
from tests.conftest import ended, rows, start_python
from tests.smtp_server import SmtpServer, certificate

TO, SUBJECT, TEXT, HTML = "john@example.com", "Grüße", "Your token is s3cr3t.\n", "<p>Your token is <b>s3cr3t</b>.</p>"
INJECTIONS = [
    "a\r\nBcc: x@y.de",
    "a\nb",
    "a\rb",
    "a\x00b",
    "a\x85b",
    "a\u2028b",
    "a\u2029b",
    "a\ud800",
    "=?utf-8?q?a=0D=0ABcc:_x?=",
]


@pytest.fixture
def server():
    with SmtpServer() as running:
        yield running


@pytest.fixture
def sending(make_app):
    """Return a function that makes an app which sends to a server."""

    def make(server, user="", scheme="smtp", **variables):
        url = f"{scheme}://{user}127.0.0.1:{server.port}"
        return make_app(SMTP_URL=url, MAIL_FROM="Walnut <walnut@example.com>", **variables)

    return make


def enqueue(app, **more):
    with app.app_context(), db.writing() as conn:
        return mail.send(conn, **{"to": TO, "subject": SUBJECT, "text": TEXT} | more)


def carry_out(app, job, attempt=1):
    """Do what a worker does with a job."""
    row = rows(app, "SELECT id, kind, lane, payload, created_at FROM jobs WHERE id = ?", job["id"])
    assert row
    with app.app_context():
        seen = Job(job["id"], "mail", ":mail", job["payload"], attempt, None, job["created_at"])
        return KINDS["mail"].run(seen)


def deliver(app, **more):
    return carry_out(app, enqueue(app, **more))


# ---- what is sent


def test_a_mail_arrives_as_text_and_as_html(sending, server):
    app = sending(server)
    job = enqueue(app, html=HTML)
    assert carry_out(app, job) == Done(result={"server": f"127.0.0.1:{server.port}"})
    (envelope,), (found,) = server.taken, server.mails()
    assert (envelope.mail_from, envelope.rcpt_tos) == ("walnut@example.com", [TO])
    assert found["Message-ID"] == f"<{job['id']}@example.com>"
    assert (found["From"], found["To"], found["Subject"]) == ("Walnut <walnut@example.com>", TO, SUBJECT)
    assert found["Auto-Submitted"] == "auto-generated"
    assert abs(found["Date"].datetime.timestamp() - time.time()) < 60
    assert [part.get_content_type() for part in found.iter_parts()] == ["text/plain", "text/html"]
    assert found.get_body(("plain",)).get_content() == TEXT.replace("\n", "\r\n")
    assert found.get_body(("html",)).get_content().strip() == HTML
    assert envelope.content.isascii()  # also for servers without 8BITMIME
    assert not found.defects


def test_a_mail_that_is_sent_again_is_the_same_byte_for_byte(sending, server):
    app = sending(server)
    job = enqueue(app, html=HTML)
    carry_out(app, job)
    carry_out(app, job, attempt=2)
    first, second = server.taken
    assert first.content == second.content


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "\n.\n..\n",
        "ä" * 3000,
        "x" * 3000,
        "From here\n\u2028end\n",
        "\ud83d\udc9a".encode("utf-16", "surrogatepass").decode("utf-16"),
    ],
)
def test_any_text_arrives_whole(sending, server, text):
    deliver(sending(server), text=text)
    found = server.mails()[0].get_content().replace("\r\n", "\n")
    assert found.removesuffix("\n") == text.removesuffix("\n")
    assert max(map(len, server.taken[0].content.split(b"\r\n"))) <= 998


@pytest.mark.parametrize("fault", INJECTIONS)
def test_no_header_can_be_smuggled_in(app, fault):
    for field, value in (("subject", fault), ("to", f"{fault}@example.com"), ("to", f'"{fault}"@example.com')):
        with pytest.raises(Invalid, match=r"No mail can be sent: its (subject|address)"):
            enqueue(app, **{field: value})
    assert rows(app, "SELECT count(*) FROM jobs") == [(0,)]


@pytest.mark.parametrize(
    "text", ["", "john", "@example.com", "john@", "a b@c.de", "a@b@c.de", "a@b.de, c@d.de", "<a@b.de>", "a..b@c.de",
             ".a@c.de", "a@c..de", "a@.de", "a@b.de ", "a,b@c.de", "a@b(c).de", "x" * 250 + "@c.de", '"a"b@c.de'],
)  # fmt: skip
def test_what_is_no_address_is_refused(text):
    with pytest.raises(ValueError, match="no mail address"):
        mail_addresses.address(text)


@pytest.mark.parametrize(
    "text",
    [
        TO,
        "a+b@c",
        "o'neil@x-y.example",
        '"a b"@c.de',
        r'"a\"b"@c.de',
        "a@[127.0.0.1]",
        "jörg@exämple.com",
        "用户@例子.公司",
    ],
)
def test_what_is_an_address_is_one_mails_recipient(app, text):
    job = enqueue(app, to=text)
    carry_out(app, job)
    content = outbox.folder(app.extensions["settings"].instance_path).joinpath(f"{job['id']}.eml").read_bytes()
    assert f"\r\nTo: {text}\r\n".encode() in content


@pytest.mark.parametrize(
    ("text", "name", "address"),
    [
        ("a@b.de", "", "a@b.de"),
        ("<a@b.de>", "", "a@b.de"),
        ("Walnut <a@b.de>", "Walnut", "a@b.de"),
        ('"Walnut, Inc. \\"x\\"" <a@b.de>', 'Walnut, Inc. "x"', "a@b.de"),
        ("Walnuß & Söhne <a@b.de>", "Walnuß & Söhne", "a@b.de"),
    ],
)
def test_a_sender_may_have_a_name(make_app, text, name, address):
    app = make_app(MAIL_FROM=text)
    job = enqueue(app)
    carry_out(app, job)
    content = outbox.folder(app.extensions["settings"].instance_path).joinpath(f"{job['id']}.eml").read_bytes()
    (sender,) = message_from_bytes(content, policy=default)["From"].addresses
    assert (sender.display_name, sender.addr_spec) == (name, address)


def test_without_a_sender_there_is_one(make_app):
    assert str(make_app().extensions["post"].sender) == '"Walnut" <walnut@localhost>'
    named = make_app(PUBLIC_URL="https://walnut.example.com/app")
    assert named.extensions["post"].sender.address == "walnut@walnut.example.com"


# ---- which transaction it belongs to, and what is kept of it


def test_a_transaction_that_is_rolled_back_sends_nothing(app):
    class Undone(Exception):
        pass

    with app.app_context(), suppress(Undone), db.writing() as conn:
        mail.send(conn, to=TO, subject=SUBJECT, text=TEXT)
        raise Undone
    assert rows(app, "SELECT count(*) FROM jobs") == [(0,)]


def test_it_is_sealed_while_it_waits_and_forgotten_once_it_was_delivered(app, user):
    job = enqueue(app, user_id=user.id)
    assert rows(app, "SELECT owner_id FROM jobs WHERE id = ?", job["id"]) == [(user.id,)]
    stored = str(rows(app, "SELECT * FROM jobs"))
    assert not any(text in stored for text in (TO, "s3cr3t", "Your token"))
    with app.app_context(), db.writing() as conn:
        claimed = queue.claim(conn, "worker", ":mail", 3, 1, db.now())
        assert outcomes.settle(conn, claimed[0], Again(error="later", after=0), db.now())
    assert rows(app, "SELECT length(payload) > 100 FROM jobs") == [(1,)]
    with app.app_context(), db.writing() as conn:
        claimed = queue.claim(conn, "worker", ":mail", 3, 1, db.now())
        late = dict(claimed[0], attempts=1)
        assert not outcomes.settle(conn, late, Done(), db.now())
    assert rows(app, "SELECT length(payload) > 100 FROM jobs") == [(1,)]
    with app.app_context(), db.writing() as conn:
        assert outcomes.settle(conn, claimed[0], Done(result={}), db.now())
    assert rows(app, "SELECT status, payload FROM jobs") == [("complete", "null")]


def test_one_that_failed_can_be_tried_again(app):
    enqueue(app)
    with app.app_context(), db.writing() as conn:
        claimed = queue.claim(conn, "worker", ":mail", 3, 1, db.now())
        outcomes.settle(conn, claimed[0], Failed(error="550"), db.now())
    assert rows(app, "SELECT status, length(payload) > 100 FROM jobs") == [("failed", 1)]


def test_one_that_cannot_be_decrypted_waits_for_its_key(app):
    job = enqueue(app)
    job["payload"]["sealed"] = "x"
    outcome = carry_out(app, job)
    assert isinstance(outcome, Again)
    assert "ENCRYPTION_KEY" in outcome.error


# ---- the outbox


def test_without_a_server_it_is_a_file_that_its_owner_alone_can_read(app):
    job = enqueue(app, html=HTML)
    folder = outbox.folder(app.extensions["settings"].instance_path)
    for attempt in (1, 2):  # the same file
        outcome = carry_out(app, job, attempt)
        assert outcome == Done(result={"file": str(folder / f"{job['id']}.eml")})
        (path,) = folder.iterdir()
        assert (stat.S_IMODE(path.stat().st_mode), stat.S_IMODE(folder.stat().st_mode)) == (0o600, 0o700)
        assert message_from_bytes(path.read_bytes(), policy=default)["Subject"] == SUBJECT


def test_an_outbox_that_cannot_be_written_is_tried_again_and_leaves_no_rest(app, monkeypatch):
    def full(_file):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    outcome = deliver(app)
    assert isinstance(outcome, Again)
    assert "No space left on device" in outcome.error
    assert list(outbox.folder(app.extensions["settings"].instance_path).iterdir()) == []


def test_old_files_are_swept(tmp_path):
    def all_there(ids):
        return set(ids)

    assert outbox.sweep(tmp_path, all_there) == 0
    old, new = outbox.put(tmp_path, "old", b"1"), outbox.put(tmp_path, "new", b"2")
    unfinished = old.with_name(".old.abcd")
    unfinished.touch()
    for path in (old, unfinished):
        os.utime(path, (0, time.time() - outbox.KEPT_SECONDS - 5))
    assert outbox.sweep(tmp_path, all_there) == 2
    assert list(outbox.folder(tmp_path).iterdir()) == [new]


def test_housekeeping_sweeps_them(app, monkeypatch):
    monkeypatch.setattr(housekeeping, "EVERY_SECONDS", 0.01)
    path = outbox.put(app.extensions["settings"].instance_path, "old", b"1")
    os.utime(path, (0, 0))
    stop = threading.Event()
    keeper = threading.Thread(target=housekeeping.keep_swept, args=(app.extensions["settings"], stop))
    keeper.start()
    deadline = time.monotonic() + 5
    while path.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    stop.set()
    keeper.join(5)
    assert not path.exists()


# ---- what a server says


@pytest.mark.parametrize(
    ("command", "answer", "kind", "to_blame"),
    [
        ("MAIL", "451 4.3.0 john@example.com? later", Again, True),
        ("MAIL", "550 5.7.1 john@example.com? not for you", Again, True),
        ("MAIL", "552 5.3.4 too large", Failed, None),
        ("RCPT", "450 4.2.0 <john@example.com> greylisted", Again, False),
        ("RCPT", "421 4.3.2 going down", Again, True),
        ("RCPT", "550 5.1.1 <john@example.com> unknown", Failed, None),
        ("DATA", "451 4.3.0 john@example.com? later", Again, False),
        ("DATA", "554 5.7.1 <john@example.com> spam", Failed, None),
        ("DATA", "554", Failed, None),
    ],
)
def test_what_is_refused_for_now_is_tried_again_and_the_rest_is_not(sending, server, command, answer, kind, to_blame):
    server.answers[command] = [answer]
    app = sending(server)
    job = enqueue(app)
    outcome = carry_out(app, job)
    assert type(outcome) is kind
    assert getattr(outcome, "to_blame", None) == to_blame
    assert answer[:9] in outcome.error
    assert "john" not in outcome.error, "addresses are in no error"
    if kind is Again:
        assert carry_out(app, job, 2) == Done(result={"server": f"127.0.0.1:{server.port}"})
        assert len(server.taken) == 1


def test_attempts_are_further_and_further_apart():
    waits = [sorted(mail.wait(attempt) for _ in range(50)) for attempt in range(1, 12)]
    assert 1000 <= waits[0][0] < waits[0][-1] < 2000
    assert all(longest[-1] <= mail.LONGEST_WAIT for longest in waits)
    assert sum(several[0] for several in waits[:9]) > 3600_000


@contextmanager
def listening(talk):
    """A server that says whatever `talk` does with each connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve():
            with suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    with connection, suppress(OSError):
                        talk(connection)

        threading.Thread(target=serve, daemon=True).start()
        yield listener.getsockname()[1]
        with suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)


class At:
    def __init__(self, port):
        self.port = port


TALKS = {
    "hangs up": lambda connection: None,
    "is no SMTP": lambda connection: connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n"),
    "is closed": lambda connection: connection.sendall(b"554 5.3.2 no\r\n"),
    "floods": lambda connection: connection.sendall(b"220 " + b"x" * 100_000 + b"\r\n"),
    "says nothing": lambda connection: time.sleep(0.5),
}


@pytest.mark.parametrize("talk", TALKS)
def test_a_server_that_is_broken_is_to_blame(sending, monkeypatch, talk):
    monkeypatch.setattr(smtp, "CONNECT_SECONDS", 0.1)
    with listening(TALKS[talk]) as port:
        outcome = deliver(sending(At(port)))
    assert isinstance(outcome, Again)
    assert outcome.to_blame
    assert f"127.0.0.1:{port}" in outcome.error


def test_nobody_there(sending, make_app):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    outcome = deliver(sending(At(port)))
    assert outcome.error == f"127.0.0.1:{port} cannot be reached (Connection refused)."
    unknown = deliver(make_app(SMTP_URL="smtp://mail.invalid"))
    assert unknown.error.startswith("mail.invalid:587 cannot be reached (")


def test_a_mail_that_was_taken_stays_sent_also_if_the_farewell_fails(sending, server, monkeypatch):
    monkeypatch.setattr(smtp, "QUIT_SECONDS", 0.05)

    async def farewell(*_arguments):
        time.sleep(0.5)
        return "421 no"

    server.handle_QUIT = farewell
    app = sending(server)
    began = time.monotonic()
    assert isinstance(deliver(app), Done)
    assert time.monotonic() - began < 0.4


# ---- encryption and passwords

ME = "walnut:p%40ss%2Fw%3Ard@"


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    return certificate(tmp_path_factory.mktemp("tls"))


def test_starttls_is_used_when_it_is_offered_and_the_password_goes_over_it(sending, shown):
    with SmtpServer(tls_context=shown[0], require_starttls=True, password=True) as server:
        assert isinstance(deliver(sending(server, ME)), Done)
    assert server.sessions[0].ssl is not None
    assert server.sessions[0].authenticated


def test_a_wrong_password_is_the_servers_fault_and_named_without_it(sending, shown, caplog):
    caplog.set_level(logging.DEBUG)
    with SmtpServer(tls_context=shown[0], password=True) as server:
        outcome = deliver(sending(server, "walnut:hunter2@"))
    assert isinstance(outcome, Again)
    assert outcome.to_blame
    assert "refused the user or the password of SMTP_URL (535 5.7.8)" in outcome.error
    assert "hunter2" not in outcome.error + caplog.text + repr(smtp.parse("smtp://walnut:hunter2@a.de"))


def test_a_password_for_who_asks_for_none_is_said(sending, server):
    outcome = deliver(sending(server, ME))
    assert "takes no password" in outcome.error


@pytest.fixture
def far_away(monkeypatch):
    """What listens on loopback counts as another machine."""
    monkeypatch.setattr(smtp, "_is_this_machine", lambda client: False)


def test_another_machine_gets_no_password_in_the_clear(sending, far_away):
    with SmtpServer(password=True, auth_require_tls=False) as server:
        outcome = deliver(sending(server, ME))
        assert isinstance(outcome, Again)
        assert "no encryption" in outcome.error
        assert not server.begun


def test_another_machine_without_a_password_may_have_no_encryption(sending, server, far_away):
    assert isinstance(deliver(sending(server)), Done)


@pytest.mark.parametrize("scheme", ["smtp", "smtps"])
def test_the_certificate_of_another_machine_is_verified(sending, shown, far_away, monkeypatch, scheme):
    options = {"tls_context": shown[0]} if scheme == "smtp" else {"tls": shown[0]}
    with SmtpServer(**options) as server:
        app = sending(server, scheme=scheme)
        job = enqueue(app)
        outcome = carry_out(app, job)
        assert isinstance(outcome, Again)
        assert (
            outcome.error == f"The certificate of 127.0.0.1:{server.port} cannot be verified (self-signed certificate)."
        )
        assert not server.begun
        monkeypatch.setenv("SSL_CERT_FILE", str(shown[1]))
        assert isinstance(carry_out(app, job, 2), Done)


def test_smtps_without_tls_on_the_other_side_is_said(sending, server):
    assert "speaks no TLS" in deliver(sending(server, scheme="smtps")).error


# ---- addresses in other scripts


def test_an_address_in_another_script_needs_a_server_that_takes_it(sending, server):
    outcome = deliver(sending(server), to="jörg@exämple.com")
    assert isinstance(outcome, Failed)
    assert "SMTPUTF8" in outcome.error
    with SmtpServer(enable_SMTPUTF8=True) as modern:
        assert isinstance(deliver(sending(modern), to="jörg@exämple.com"), Done)
    assert modern.taken[0].rcpt_tos == ["jörg@exämple.com"]
    assert "SMTPUTF8" in modern.taken[0].mail_options
    assert "To: jörg@exämple.com\r\n".encode() in modern.taken[0].content


# ---- SMTP_URL


@pytest.mark.parametrize(
    ("url", "host", "port", "tls", "user", "password"),
    [
        ("smtp://mail.example.com", "mail.example.com", 587, False, "", ""),
        ("smtps://mail.example.com/", "mail.example.com", 465, True, "", ""),
        ("smtp://[::1]:25", "::1", 25, False, "", ""),
        ("smtp://me%40example.com:p%40ss%2F%3A@mail.example.com:2525", "mail.example.com", 2525, False,
         "me@example.com", "p@ss/:"),
    ],
)  # fmt: skip
def test_a_server_is_named_by_its_url(url, host, port, tls, user, password):
    assert smtp.parse(url) == smtp.Server(host, port, tls, user, password)


# ---- a real worker

WORKER = """
from gevent import monkey; monkey.patch_all()
import dataclasses, sys, gevent
from api import create_app, db
from api.jobs import mail
from api.jobs.kinds import KINDS
from api.jobs.worker import Worker

app = create_app()
KINDS["mail"] = dataclasses.replace(KINDS["mail"], seconds=0.5)
worker = Worker(app, 5)
running = gevent.spawn(worker.run)
with app.app_context():
    with db.writing() as conn:
        job = mail.send(conn, to="john@example.com", subject="Hello", text="x")
    while True:
        gevent.sleep(0.02)
        with db.reading() as conn:
            found = conn.exec_driver_sql("SELECT status, error FROM jobs").one()
        if found[1]:
            break
worker.stop()
running.join()
print(*found)
"""


def test_a_server_that_drips_is_left_at_the_deadline(sending):
    def drip(connection):
        while True:
            connection.sendall(b"2")
            time.sleep(0.05)

    with listening(drip) as port:
        sending(At(port))
        found = ended(start_python(WORKER))
    assert found == "pending It took longer than 0.5 s.\n"
