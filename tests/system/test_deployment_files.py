"""The files that deploy Walnut, held against the programs that read them. No container engine is needed."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import compose_spec
import yaml  # type: ignore[import-untyped]

from api.jobs.worker import GRACE_SECONDS
from tests.system.processes import PROJECT, Nginx

COMPOSE = PROJECT / "docker-compose.yml"


def run(*command: str | Path, cwd: Path = PROJECT) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=60, check=False)


def services() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(COMPOSE.read_text())["services"]
    return found


def test_nginx_accepts_its_configuration(tmp_path: Path) -> None:
    nginx = Nginx(tmp_path, replicas=[3000, 3001])
    checked = run(*nginx.command(), "-t", cwd=tmp_path)
    assert checked.returncode == 0, checked.stderr
    assert "[warn]" not in checked.stderr


def test_no_replica_is_put_aside_for_a_fault() -> None:
    """Nginx's default, max_fails=1, turned one restart of two replicas into an outage."""
    lines = (PROJECT / "nginx.d" / "replicas.conf").read_text().splitlines()
    servers = [line for line in lines if line.startswith("server ")]
    assert servers
    assert all("max_fails=0" in line for line in servers)


def test_the_compose_file_is_valid() -> None:
    """By `docker compose config` where Docker has that plugin, otherwise by the Compose specification's own rules."""
    if run("docker", "compose", "version").returncode == 0:
        checked = run("docker", "compose", "config", "--quiet")
        assert checked.returncode == 0, checked.stderr
        return
    defaults_filled_in = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", COMPOSE.read_text())
    compose_spec.PyOptions(apply_merge=True).from_yaml(defaults_filled_in).validate()


def test_every_command_of_the_compose_file_exists() -> None:
    ours = {name: service["command"] for name, service in services().items() if service["image"] == "walnut"}
    assert ours.keys() == {"migrate", "api", "worker"}
    for name, command in ours.items():
        known = run(sys.executable, "-m", "api", *command, "--help")
        assert known.returncode == 0, f"{name}: {known.stderr}"


def test_replicas_get_time_to_end() -> None:
    """Gunicorn gives requests in flight 25 s, a worker its jobs GRACE_SECONDS; Docker must not kill before."""
    assert int(services()["api"]["stop_grace_period"].removesuffix("s")) > 25
    assert int(services()["worker"]["stop_grace_period"].removesuffix("s")) > GRACE_SECONDS


def test_the_dockerfile_is_clean() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    checked = run(hadolint, PROJECT / "Dockerfile")
    assert checked.returncode == 0, checked.stdout


def test_what_the_dockerfile_copies_is_there_and_not_ignored() -> None:
    lines = re.findall(r"^COPY (?!--from)(.+) \S+$", (PROJECT / "Dockerfile").read_text(), re.MULTILINE)
    copied = {name for line in lines for name in line.split()}
    sent = {line[1:] for line in (PROJECT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert copied == sent
    assert [name for name in copied if not (PROJECT / name).exists()] == []
