"""Walnut: a lightweight, SQLite-first backend server. One request, one commit."""

from flask import Flask
from werkzeug.middleware.proxy_fix import ProxyFix

from api import answers, audit_trail, cli, db, failpoints, observe, secret_box, settings, store
from api.api_keys.routes import api_keys
from api.assets import asset
from api.audit.routes import audit
from api.auth import passwords
from api.auth.routes import auth
from api.credentials import requests
from api.credentials.routes import credentials
from api.events import hub
from api.events.routes import events
from api.jobs import bell, kinds, mail, maintenance
from api.jobs import vendors as vendor_calls
from api.jobs.routes import jobs
from api.ops import scrape
from api.ops.routes import ops
from api.second_factor.routes import second_factor
from api.settings import Settings
from api.tasks.routes import tasks
from api.users.routes import users
from api.vendors.routes import vendors
from api.web import (
    access_tokens,
    contract,
    cors,
    edge,
    headers,
    limits,
    pages,
    problems,
    resource,
    swagger,
    versions,
)
from api.web.app import App


def create_app(configuration: Settings | None = None) -> Flask:
    """Return the app: the one place that knows everybody. Raises SettingsError."""
    given = configuration or settings.load()
    app = App(__name__, static_folder=asset("static"), instance_path=str(given.instance_path))
    app.config["MAX_CONTENT_LENGTH"] = contract.MAX_BODY + 1  # one more than it takes, to see that it is too much
    app.url_map.strict_slashes = app.url_map.merge_slashes = False
    app.extensions["settings"] = given
    for part in (failpoints, db, store, answers, access_tokens, limits, passwords, audit_trail, secret_box):
        part.init_app(app, given)
    for part in (bell, hub, mail):
        part.init_app(app, given)
    kinds.register(vendor_calls.call, maintenance.maintain, mail.deliver, requests.answer)
    resource.mount(app, auth, credentials, api_keys, second_factor, users, tasks, jobs, vendors, audit, events, ops)
    resource.mount_at_root(app, ops)
    for page in (pages, swagger, scrape, problems):
        page.init_app(app)
    for layer in (edge, versions, cors, headers, observe):  # WSGI: the last one is the first to see a request
        layer.init_app(app, given)
    if hops := given.trusted_proxies:
        app.wsgi_app = ProxyFix(app.wsgi_app, x_for=hops, x_proto=hops)  # type: ignore[method-assign]
    for command in cli.COMMANDS:
        app.cli.add_command(command)
    return app
