"""Nobody learns by the time of a refused login whether there is an account. `make accounts` runs the long proof."""

import os
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import pytest

from tests.system.conftest import NO_LIMITS
from tests.system.processes import Walnut, ask

TRIES = int(os.environ.get("ACCOUNTS_TRIES", "6"))
# Medians of a few tries lie further apart; without the hash for nobody it would be 250 ms to 2 ms.
APART = 0.05 if TRIES >= 300 else 0.4
PER_ADDRESS = 5  # wrong passwords before one has to wait


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Walnut]:
    """A server that hashes as it does in production: with 12 rounds."""
    folder: Path = tmp_path_factory.mktemp("walnut")
    with Walnut(folder, None, WORKERS=1, LOG_LEVEL="warning", **NO_LIMITS) as running:
        yield running


@pytest.mark.alone
@pytest.mark.timeout(600)
def test_a_wrong_password_takes_as_long_as_an_unknown_address(server: Walnut) -> None:
    known = [f"known{number}@example.com" for number in range(-(-TRIES // 2 // PER_ADDRESS))]
    for number, email in enumerate(known):
        account = {"username": f"known{number}", "email": email, "password": "correct horse"}
        assert server.request("POST", "/api/v1/auth/register", account).status == 201
    unknown = [email.replace("known", "unheard") for email in known]
    seconds: dict[str, list[float]] = {"known": [], "unknown": []}
    connection = server.connect()
    for number in range(TRIES):
        kind, emails = (("known", known), ("unknown", unknown))[number % 2]
        email = emails[number // 2 // PER_ADDRESS]
        began = time.perf_counter()
        body = {"email": email, "password": "wrong password"}
        answer = ask(connection, "POST", "/api/v1/auth/login", body)
        seconds[kind].append(time.perf_counter() - began)
        assert answer.status == 401
    connection.close()
    one, other = (median(found) for found in seconds.values())
    print(f"{TRIES} tries: known {one * 1000:.1f} ms, unknown {other * 1000:.1f} ms, apart {abs(one / other - 1):.1%}")
    assert min(one, other) > 0.02, "it was hashed, as in production"
    assert abs(one / other - 1) < APART
