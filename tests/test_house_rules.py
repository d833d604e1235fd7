"""The rules of the house, held against every module and every route."""

import ast
import dataclasses
import inspect
import re
from pathlib import Path

import pytest

from api.settings import Settings
from api.web import guard, resource
from api.web.contract import SECRET
from api.web.openapi import document
from api.web.versions import VERSIONS
from tests.conftest import PROJECT

API = PROJECT / "api"
FILES = sorted(path for path in API.rglob("*.py") if "versions" not in path.relative_to(API).parts)

# Bottom to top: a module imports from floors below its own, and from its own room. What has no line here is a room.
FLOORS = [
    {
        *("errors", "version", "assets", "tables", "statements", "rates", "gunicorn_answers", "waiting_line"),
        *("failpoints", "trace", "dated_files", "tally", "lease", "mail_addresses", "smtp"),
    },
    {"scoreboard", "gunicorn_worker", "outgoing"},
    {"metrics"},
    {"jwt_secret"},
    {"setting_rules"},
    {"settings", "sqlite", "watchdog"},
    {"secret_box", "group_commit", "exchange"},
    {"db", "logs", "observe", "store"},
    {"answers"},
    {"audit_trail", "counting"},
    {"checkpoints"},
    {"migrations"},
    {"web"},
    {"audit", "vendors"},
    {"jobs"},
    {"auth"},
    {"tasks"},
    {"a room"},
    {"housekeeping"},
    {"supervisor"},
    {"cli"},
    {"__init__"},
    {"__main__", "worker_process"},
]
# The corridor in walking order: a file imports only from those before it.
CORRIDOR = [
    *("app", "headers", "cors", "versions", "contract", "fields", "strict_json", "conditional", "pages", "problems"),
    *("api_keys", "access_tokens", "limits", "guard", "inputs", "cursors", "lists"),
    *("cache", "transaction", "idempotency", "output", "audit"),
    *("resource", "openapi_responses", "openapi", "swagger", "edge", "__init__"),
]
# Within a room: what a file is called says what it may lean on.
ROUTES_ARE_FOR = {"api"}

MAX_FUNCTION, MAX_MODULE = 25, 220
LONG: dict[str, str] = {  # name of a module or function: why it is one thought
    "api.tables": "every table on one page",
}
UNAUDITED: dict[str, str] = {
    "/auth/refresh": "rotation is the normal course of a session; its end by reuse is what deserves an entry",
    "/auth/confirmation": "asks for a mail for an address that may be nobody's; the job that finds an account says so",
    "/auth/forgot-password": "as /auth/confirmation",
    "/webhooks/<vendor>": "what it changes is a job's end, which has its entry whoever brings it about",
}
UNLIMITED: dict[str, str] = {  # path: why nobody counts
    "/health": "monitors ask it, all from one address",
    "/health/db": "as /health",
    "/health/redis": "as /health",
    "/health/live": "load balancers ask it often, and a refusal would look like a failure",
    "/health/ready": "as /health/live",
    "/webhooks/<vendor>": "a vendor brings all its results from one address, and one refused is a result too late",
}
NO_THING: dict[str, str] = {  # path with a name in it: why its answer is not about a thing that counts its changes
    "/webhooks/<vendor>": "what became of one message",
}
UNDECLARED = {  # what is served without a contract
    "static": "files",
    "dashboard": "a page",
    "metrics": "for Prometheus, in its own format",
    "flasgger.apidocs": "a page",
    "flasgger.static": "files",
    "flasgger.openapi": "the document of the contracts",
    "flasgger.oauth_redirect": "flasgger's own, of no use here",
    "flasgger.<lambda>": "flasgger's own redirect",
}


def module_name(path):
    return ".".join(path.relative_to(PROJECT).with_suffix("").parts).removesuffix(".__init__")


TREES = {module_name(path): ast.parse(path.read_text()) for path in FILES}
MODULES = set(TREES)


def is_for_types_only(node):
    return isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")


def imports(tree):
    """Yield every import that runs when the module is loaded."""
    pending = list(tree.body)
    while pending:
        node = pending.pop()
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        elif not is_for_types_only(node):
            pending += [child for child in ast.iter_child_nodes(node) if isinstance(child, ast.stmt)]


def dependencies(name):
    """Return the modules of ours that a module imports."""
    found = set()
    for node in imports(TREES[name]):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.partition(".")[0] == "api"}
        elif node.level:
            pytest.fail(f"{name} imports relatively: write the whole name")
        elif node.module and node.module.partition(".")[0] == "api":
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found.add(inner if inner in MODULES else node.module)
    return found


def place(name):
    """Return the floor of a module and the room it is in."""
    parts = name.split(".")
    room = parts[1] if len(parts) > 1 else "__init__"
    for number, floor in enumerate(FLOORS):
        if room in floor:
            return number, room
    if not (API / room).is_dir():
        pytest.fail(f"{name} has no floor yet: give it one in FLOORS, and in the README's map")
    return FLOORS.index({"a room"}), room


@pytest.mark.parametrize("name", sorted(MODULES))
def test_imports_go_down_only(name):
    floor, room = place(name)
    for dependency in dependencies(name):
        below, other = place(dependency)
        same_room = other == room and (API / room).is_dir()
        assert below < floor or same_room, f"{name} imports {dependency}, which is not below it"


def test_the_corridor_is_imported_in_walking_order():
    there = {name.removeprefix("api.web.").replace("api.web", "__init__") for name in MODULES if "api.web" in name}
    assert there == set(CORRIDOR), "CORRIDOR must name every file of api/web"
    for name in CORRIDOR:
        module = "api.web" if name == "__init__" else f"api.web.{name}"
        for dependency in dependencies(module):
            if dependency.startswith("api.web."):
                other = dependency.removeprefix("api.web.")
                assert CORRIDOR.index(other) < CORRIDOR.index(name), f"{module} imports {dependency}"


def test_rooms_know_the_corridor_by_its_door_only():
    for name in MODULES:
        if place(name)[0] > FLOORS.index({"web"}) and name != "api":
            inside = {dependency for dependency in dependencies(name) if dependency.startswith("api.web.")}
            assert not inside, f"{name} imports {inside}: import from api.web"


def test_routes_are_imported_by_nobody_but_the_app():
    for name in MODULES:
        found = {dependency for dependency in dependencies(name) if dependency.endswith(".routes")}
        assert not found or name in ROUTES_ARE_FOR, f"{name} imports {found}"


def test_there_are_no_import_cycles():
    finished, path = set(), []

    def walk(name):
        if name in path:
            pytest.fail(" -> ".join([*path[path.index(name) :], name]))
        if name not in finished:
            path.append(name)
            for dependency in sorted(dependencies(name)):
                walk(dependency)
            finished.add(path.pop())

    for name in sorted(MODULES):
        walk(name)
    assert finished == MODULES


@pytest.mark.parametrize("name", sorted(MODULES))
def test_no_import_hides_in_a_function(name):
    hidden = [
        f"line {inner.lineno}"
        for node in ast.walk(TREES[name])
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda)
        for inner in ast.walk(node)
        if isinstance(inner, ast.Import | ast.ImportFrom)
    ]
    assert not hidden, f"{name}: {hidden}"


def test_imports_for_types_only_are_ours_to_break_cycles_with():
    for name, tree in TREES.items():
        for node in tree.body:
            if is_for_types_only(node):
                assert all(isinstance(inner, ast.ImportFrom) for inner in node.body), name


@pytest.mark.parametrize("name", sorted(MODULES))
def test_everything_public_has_a_docstring(name):
    tree = TREES[name]
    missing = [] if ast.get_docstring(tree) else [name]
    pending = [(name, tree)]
    while pending:
        inside, node = pending.pop()
        for child in node.body:
            if not isinstance(child, ast.FunctionDef | ast.ClassDef) or child.name.startswith("_"):
                continue
            here = f"{inside}.{child.name}"
            if isinstance(child, ast.ClassDef):
                pending.append((here, child))
            if not ast.get_docstring(child):
                missing.append(here)
    assert not missing


def functions():
    for name, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef):
                yield f"{name}.{node.name}", node


def test_functions_are_short():
    long = {
        name: node.end_lineno - node.body[0].lineno + 1
        for name, node in functions()
        if node.end_lineno - node.body[0].lineno + 1 > MAX_FUNCTION and name not in LONG
    }
    assert not long, f"over {MAX_FUNCTION} lines, is there a second thing in it? {long}"


def test_modules_are_short():
    long = {
        module_name(path): lines
        for path in FILES
        if (lines := len(path.read_text().splitlines())) > MAX_MODULE and module_name(path) not in LONG
    }
    assert not long, f"over {MAX_MODULE} lines, is there a second subject in it? {long}"


def test_what_is_excused_is_still_there_and_still_long():
    sizes = {module_name(path): len(path.read_text().splitlines()) for path in FILES}
    sizes_of_functions = {name: node.end_lineno - node.body[0].lineno + 1 for name, node in functions()}
    for name in LONG:
        assert sizes.get(name, 0) > MAX_MODULE or sizes_of_functions.get(name, 0) > MAX_FUNCTION, name
    assert len(LONG) <= 3


def test_no_file_has_a_name_that_says_nothing():
    nothing = re.compile(r"(util(itie)?s?|helpers?|commons?|services?|managers?|misc|base|core|extensions?)")
    for path in [*FILES, *(PROJECT / "tests").rglob("*.py")]:
        assert not nothing.fullmatch(path.stem), path
        assert not any(nothing.fullmatch(part) for part in path.relative_to(PROJECT).parts[:-1]), path


def test_every_module_has_its_tests():
    there = {path.stem.removeprefix("test_") for path in (PROJECT / "tests").glob("test_*.py")}
    for room in [path.name for path in API.iterdir() if path.is_dir() and (path / "routes.py").exists()]:
        assert {"ops": "health"}.get(room, room) in there, f"tests/test_{room}.py"


# ---- every route


@pytest.fixture
def routes(lasting_app, lasting_admin):
    """Return every route with a contract, once for each version, as (path without version, contract, view)."""
    found = {}
    for rule in lasting_app.url_map.iter_rules():
        view = lasting_app.view_functions[rule.endpoint]
        if hasattr(view, "contract"):
            path = re.sub(r"^/api/v\d+", "", rule.rule)
            found[path, rule.endpoint.partition(".")[2], view.contract.version] = (view.contract, view)
    assert {version for _, _, version in found} == set(VERSIONS)
    assert len(found) > 15 * len(VERSIONS)
    return [(path, contract, view) for (path, *_), (contract, view) in found.items()]


def test_every_address_has_a_contract_or_is_known_to_have_none(lasting_app):
    for rule in lasting_app.url_map.iter_rules():
        view = lasting_app.view_functions[rule.endpoint]
        assert hasattr(view, "contract") or rule.endpoint in UNDECLARED, f"{rule.rule} ({rule.endpoint})"


def test_every_route_says_what_it_does(routes):
    for path, _, view in routes:
        words = (view.__doc__ or "").strip()
        assert len(words) > 8, path
        assert words.split("\n")[0].endswith("."), f"{path}: {words!r} is no sentence"


def test_every_route_names_who_may_and_its_limit(routes):
    limits = {
        name.removeprefix("rate_limit_") for name in Settings.__dataclass_fields__ if name.startswith("rate_limit")
    }
    unlimited = set()
    for path, contract, _ in routes:
        assert contract.allow in guard.ALLOWABLE, path
        if contract.limit is None:
            unlimited.add(path)
            continue
        assert contract.limit in limits - {"skip_if_redis_down"}, path
        assert (contract.limit == "auth") == (path.startswith("/auth/") and contract.allow == guard.PUBLIC), path
    assert unlimited == set(UNLIMITED), "what has no limit says here why"


def test_every_permission_is_needed_somewhere_or_waits_for_its_room(routes):
    used = {contract.allow for _, contract, _ in routes}
    waiting = {"jobs:submit", "jobs:manage", "vendors:manage"}
    assert guard.ALLOWABLE - used <= waiting


def test_every_write_is_audited_or_excused(routes):
    for path, contract, _ in routes:
        excused = any(path == known or path.startswith(f"{known}-") for known in UNAUDITED)
        assert not contract.writes or contract.audit or excused, f"{path} writes and declares no audit"
        assert contract.writes or not contract.audit, f"{path} reads and declares an audit"
        assert not contract.audit or re.fullmatch(r"[a-z_]+\.[a-z_]+", contract.audit), path


def test_no_route_declares_what_cannot_be_kept(routes):
    for path, contract, _ in routes:
        assert contract.transaction or not contract.prepare, f"{path}: prepare is for the corridor's transaction"
        assert contract.transaction or not contract.cache, path
        assert not (contract.writes and contract.cache), f"{path} writes and is cached"
        assert not contract.location or (contract.status in (201, 202) and contract.returns), path
        assert (contract.status == 204) == (contract.returns is None), path
        assert not contract.many or contract.returns, path
        assert contract.storable or not contract.cache, path
        assert contract.version in contract.versions, path


def test_every_list_is_asked_for_as_its_version_says(routes):
    lists = [(path, contract) for path, contract, _ in routes if contract.many]
    assert {contract.version for _, contract in lists} == set(VERSIONS)
    for path, contract in lists:
        fields = set(contract.query.fields)
        assert ("page" in fields) == (contract.version == 1), path
        assert ("cursor" in fields) == (contract.version > 1), path
        assert {"limit", "sort"} <= fields, path


def test_versions_differ_in_shapes_and_never_in_rules(routes):
    """What a route declares is the same in every version that it serves."""
    rules = {}
    for path, contract, view in routes:
        kept = dataclasses.replace(contract, version=1, query=None)
        assert rules.setdefault((path, view.__name__), kept) == kept, path


def test_how_a_server_is_at_this_moment_is_never_stored(routes):
    for path, contract, _ in routes:
        if path.startswith("/health"):
            assert not contract.storable, f"{path} is about this very moment"


def test_what_has_an_address_of_its_own_counts_its_changes(routes):
    """Its ETag is its version (api/web/output.py): a schema without one would be a 500."""
    for path, contract, _ in routes:
        is_list = contract.many or (contract.returns and "items" in contract.returns.fields)
        is_thing = "<" in path or (contract.location and contract.status == 201) or contract.conditional
        if contract.returns and not is_list and is_thing and path not in NO_THING:
            assert "version" in contract.returns.fields, path


def test_answers_that_hold_tokens_are_never_kept(routes):
    for path, contract, _ in routes:
        if contract.returns and any(SECRET.search(name) for name in contract.returns.fields):
            assert not contract.idempotent, path
            assert not contract.cache, path


@pytest.mark.parametrize("version", VERSIONS)
def test_every_route_is_in_the_document_of_its_version(lasting_app, version):
    paths = document(lasting_app, version)["paths"]
    assert len(paths) > 10
    missing = []
    for rule in lasting_app.url_map.iter_rules():
        if not rule.rule.startswith(f"/api/v{version}/"):
            continue
        path = re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule)
        for method in rule.methods - {"HEAD", "OPTIONS"}:
            operation = paths.get(path, {}).get(method.lower())
            if not (operation and operation["summary"] and operation["operationId"]):
                missing.append((method, path))
    assert not missing


def test_every_address_tells_its_methods_to_anybody(lasting_app):
    client = lasting_app.test_client()
    for rule in lasting_app.url_map.iter_rules():
        path = re.sub(r"<uuid:\w+>", "019a9f3e-5b1c-7c3a-9d0e-0f6b2a1c4d5e", rule.rule)
        answer = client.options(re.sub(r"<(?:\w+:)?\w+>", "x", path))
        assert (answer.status_code, answer.data) == (204, b""), path
        assert set(re.split(r", ", answer.headers["Allow"])) >= rule.methods, path
        assert not {"Content-Type", "Content-Length"} & set(answer.headers.keys()), path


def test_views_take_what_the_corridor_gives(routes):
    """A view is called with `conn` first, `body` and `query` by name, then the parts of its path."""
    for path, contract, view in routes:
        given = list(inspect.signature(inspect.unwrap(view)).parameters)
        assert ("body" in given) == bool(contract.body), path
        assert ("query" in given) == bool(contract.query), path
        assert (given[:1] == ["conn"]) == contract.transaction, path


def test_the_corridor_is_walked_in_the_order_of_the_design():
    names = [step.__name__.rpartition(".")[2] for step in resource.STEPS]
    assert names == ["limits", "guard", "inputs", "cache", "transaction", "idempotency", "output", "audit"]


def test_an_unknown_permission_stops_the_start():
    room = resource.Resource("room", __name__)
    with pytest.raises(TypeError, match="tasks:reed"):
        room.get("/x", allow="tasks:reed")
    with pytest.raises(TypeError):
        room.get("/x")
    with pytest.raises(TypeError):
        room.post("/x", allow=guard.PUBLIC, transaction=False, audit="x.y")


def test_there_is_no_sql_outside_of_queries_and_the_ground_floor():
    """Views decide, queries ask: no route builds a statement."""
    for path in API.glob("*/routes.py"):
        name = module_name(path)
        for node in imports(TREES[name]):
            if isinstance(node, ast.ImportFrom) and node.module == "sqlalchemy":
                assert {alias.name for alias in node.names} <= {"Connection"}, name


def test_settings_are_read_in_one_place():
    for path in [*FILES, PROJECT / "gunicorn.conf.py"]:
        if path.name in ("settings.py", "supervisor.py", "worker_process.py", "gunicorn.conf.py", "failpoints.py"):
            continue
        assert not re.search(r"os\.(environ|getenv)", path.read_text()), Path(path)
