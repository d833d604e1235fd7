"""A Blueprint whose routes declare a contract; the corridor keeps it."""

import dataclasses
from collections.abc import Callable
from functools import wraps
from typing import Any

from flask import Blueprint, Flask
from flask.blueprints import BlueprintSetupState

from api.observe import note
from api.web import audit, cache, guard, headers, idempotency, inputs, limits, lists, output, transaction
from api.web.contract import Contract
from api.web.versions import VERSIONS

# The order of the corridor, from the street to the room. Steps before `transaction` may use the network and may not
# write the database; steps after it are inside the transaction and may not wait for anything else.
STEPS = (limits, guard, inputs, cache, transaction, idempotency, output, audit)

View = Callable[..., Any]


FIELDS = {field.name for field in dataclasses.fields(Contract)}


class Resource(Blueprint):
    """A room's routes. Takes the fields of Contract beside Flask's own options."""

    def route(self, rule: str, **options: Any) -> Callable[[View], View]:  # type: ignore[override]
        """Declare a route: its contract, and the view that is left to write. `also` are other names of the same."""
        paths = (rule, *options.pop("also", ()))
        writes = not set(options.get("methods", ["GET"])) <= {"GET"}
        contract = Contract(writes=writes, **{name: options.pop(name) for name in FIELDS & options.keys()})
        if contract.allow not in guard.ALLOWABLE:
            raise TypeError(f"{contract.allow!r} is no permission: guard.PERMISSIONS lists them")
        if contract.idempotent and contract.allow == guard.PUBLIC:
            raise TypeError("an Idempotency-Key belongs to a user, so nobody else can have its answer")

        def declare(view: View) -> View:
            walks = {version: corridor(view, in_version(contract, version), rule) for version in contract.versions}

            def mount(state: BlueprintSetupState) -> None:
                if walk := walks.get(state.options["version"]):
                    for path in paths:
                        state.add_url_rule(path, view.__name__, walk, **options)

            self.record(mount)
            return view

        return declare


def in_version(contract: Contract, version: int) -> Contract:
    """Return the contract as one version keeps it: versions differ in shapes, never in rules."""
    query = lists.query_schema(contract.query, version) if contract.many else contract.query
    return dataclasses.replace(contract, version=version, query=query)


def corridor(view: View, contract: Contract, rule: str) -> View:
    """Return the view behind every step, outermost first."""
    walk = view
    for step in reversed(STEPS):
        keyed = step is inputs and contract.idempotent
        walk = idempotency.wrap_inputs(walk, contract) if keyed else step.wrap(walk, contract)

    @wraps(view)
    def enter(**kwargs: Any) -> Any:
        note(route=rule)
        if contract.deprecated:
            headers.add(*contract.farewell(kwargs))
        return walk(**kwargs)

    enter.contract = contract  # type: ignore[attr-defined]
    return enter


def mount(app: Flask, *resources: Resource) -> None:
    """Serve the rooms under each version's path: /api/v1/..."""
    for version in VERSIONS:
        for resource in resources:
            name, prefix = f"{resource.name}_v{version}", f"/api/v{version}"
            app.register_blueprint(resource, name=name, url_prefix=prefix, version=version)


def mount_at_root(app: Flask, resource: Resource) -> None:
    """Serve a room without any version in its path, in its newest shape."""
    app.register_blueprint(resource, name=resource.name, version=VERSIONS[-1])
