"""The README says what is so."""

import dataclasses
import itertools
import json
import re
import shlex
import subprocess

import click
import pytest

from api.cli import walnut
from api.settings import Settings
from tests.conftest import PROJECT, Caller

README = (PROJECT / "README.md").read_text()
BLOCKS = re.sub(r" *# .*", "", "\n".join(re.findall(r"```\w*\n(.*?)```", README, re.DOTALL)))
CODE = "\n".join([BLOCKS, *re.findall(r"`([^`\n]+)`", README)])
FIELDS = {field.name.upper(): field for field in dataclasses.fields(Settings)}
# Defaults that depend on something, in the README's words.
COMPUTED = {
    "WORKERS": "cores, at most 4",
    "DATABASE_URL": "walnut.db in INSTANCE_PATH",
    "JWT_SECRET": "development: made once and kept in INSTANCE_PATH; production: required",
    "ENCRYPTION_KEY": "derived from JWT_SECRET",
    "REGISTER_ADMIN": "first in development, never in production",
    "MOCK_VENDORS": "true outside production",
}


def documented():
    """Return the README's tables of settings as a dict of name and default."""
    found = {}
    for line in README.splitlines():
        cells = [cell.strip().replace("`", "") for cell in line.strip("|").split("|")]
        names = re.split(r", *", cells[0])
        if len(cells) == 3 and all(re.fullmatch(r"[A-Z][A-Z_]+", name) for name in names):
            defaults = re.split(r", *", cells[2]) if len(names) > 1 else [cells[2]]
            assert len(names) == len(defaults), line
            for name, default in zip(names, defaults, strict=True):
                assert name not in found, f"{name} is there twice"
                found[name] = default
    return found


def in_words(name):
    """Return the default of a setting as the README writes it."""
    if name in COMPUTED:
        return COMPUTED[name]
    default = FIELDS[name].metadata["default"]
    if default in ("", None):
        return "unset"
    if default == ():
        return "none"
    return str(default).lower() if isinstance(default, bool) else str(default)


def test_every_setting_is_in_the_readme_and_nothing_else():
    assert set(documented()) == set(FIELDS)


@pytest.mark.parametrize("name", FIELDS)
def test_the_readme_has_the_default_of_every_setting(name):
    assert documented()[name] == in_words(name)


def test_every_setting_has_a_line_of_help():
    for name, field in FIELDS.items():
        assert 5 < len(field.metadata["help"]) < 100, name


def test_every_setting_is_in_the_example_and_every_value_there_is_taken(configure, tmp_path):
    text = (PROJECT / ".env.example").read_text()
    assert set(re.findall(r"^#? ?([A-Z][A-Z_]+)=", text, re.MULTILINE)) == set(FIELDS)
    (tmp_path / ".env").write_text(re.sub(r"^# ?(?=[A-Z_]+=)", "", text, flags=re.MULTILINE))
    configure()


def test_every_make_target_it_names_exists():
    makefile = (PROJECT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z]+):", makefile, re.MULTILINE))
    named = set(re.findall(r"\bmake ([a-z]+)\b", CODE))
    assert named
    assert named <= targets


def test_make_lists_its_targets():
    listed = subprocess.run(["make", "-s", "help"], cwd=PROJECT, capture_output=True, text=True, check=True).stdout
    targets = set(re.findall(r"^([a-z]+):.*## ", (PROJECT / "Makefile").read_text(), re.MULTILINE))
    assert {line.split()[1] for line in listed.splitlines()} == targets


def test_every_command_it_names_exists():
    named = re.findall(r"\bwalnut ((?:[a-z][a-z-]* ?)+)(.*)", CODE)
    assert len(named) > 3
    for words, rest in named:
        command = walnut
        for word in words.split():
            if not isinstance(command, click.Group):
                break
            assert word in command.commands, f"walnut {words}"
            command = command.commands[word]
        assert not isinstance(command, click.Group), f"walnut {words} is no whole command"
        options = {name for parameter in command.params for name in parameter.opts}
        assert set(re.findall(r"--[a-z-]+", rest.partition("#")[0])) <= options, f"walnut {words}{rest}"


def test_everything_it_links_to_is_there():
    for target in re.findall(r"\]\(([^)#]+)", README):
        if not target.startswith("http"):
            assert (PROJECT / target).exists(), target


def test_every_file_of_the_map_is_there():
    (house,) = re.findall(r"```\nwsgi\.py(.*?)```", README, re.DOTALL)
    for name in re.findall(r"([a-z_.]+\.py)\b", house):
        assert (
            list(PROJECT.glob(f"api/{name}")) or list(PROJECT.glob(f"api/web/{name}")) or (PROJECT / name).exists()
        ), name
    for room in [path.parent.name for path in (PROJECT / "api").glob("*/routes.py")]:
        assert f"{room}/" in house, f"{room} is missing in the map"


def test_the_tour_with_curl_works(app):
    """Each curl of the README, in its order, with the token and the id of the answers before."""
    blocks = [block for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL) if "curl -X POST" in block]
    tour = "\n".join(blocks)
    lines = [line for line in tour.replace("\\\n", " ").splitlines() if line.startswith("curl ")]
    assert len(lines) >= 5
    caller, ids, requests, keys = Caller(app), ["none"], ["none"], ["none"]
    for line in lines:
        words = shlex.split(line, comments=True)
        url = next(word for word in words if word.startswith("http"))
        method = words[words.index("-X") + 1] if "-X" in words else "GET"
        body = words[words.index("-d") + 1] if "-d" in words else None
        headers = dict(word.split(": ", 1) for flag, word in itertools.pairwise(words) if flag == "-H")
        headers = {
            name: value.replace("$TOKEN", caller.token or "").replace("$KEY", keys[-1])
            for name, value in headers.items()
        }
        path = url.partition("/api/v1")[2].replace("REQUEST_ID", requests[-1]).replace("ID", ids[-1])
        answer = caller.client.open(f"/api/v1{path}", method=method, data=body, headers=headers)
        assert answer.status_code in (200, 201, 202, 204), f"{line}\n{answer.text}"
        if body is not None:
            json.loads(body)
        if answer.is_json:
            caller.token = answer.json.get("access_token", caller.token)
            ids.append(answer.json.get("id", ids[-1]))
            requests.append(answer.json.get("request_id", requests[-1]))
            keys.append(answer.json.get("key", keys[-1]))


def test_every_route_it_lists_exists(lasting_app):
    known = {
        (method, re.sub(r"<(?:\w+:)?\w+>", "{id}", rule.rule.removeprefix("/api/v1")))
        for rule in lasting_app.url_map.iter_rules()
        for method in rule.methods
    }
    tried = 0
    for cell in re.findall(r"^\| (`(?:GET|POST).*?) \|", README, re.MULTILINE):
        methods = []
        for word in re.findall(r"`([^`]+)`", cell):
            path = word.split()[-1]
            given = re.findall(r"\b(GET|POST|PUT|PATCH|DELETE)\b", word)
            if not path.startswith("/"):
                methods += given
                continue
            for method in methods + (given or ["GET"]):
                tried += 1
                assert (method, re.sub(r"\{\w+\}", "{id}", path)) in known, f"{method} {path}"
            methods = []
    assert tried > 12
