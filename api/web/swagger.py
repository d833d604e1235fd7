"""Swagger UI at /api-docs, and the OpenAPI document it reads, through flasgger.

flasgger bundles a Swagger UI of 2020; it serves the files of flask-swagger-ui instead, with a page of ours
(templates/flasgger) that works under the strict Content-Security-Policy. See docs/decisions/0006-swagger-ui.md.
"""

import hashlib
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import orjson
from flasgger import Swagger
from flask import Flask, Response, abort, current_app, render_template, request

from api.errors import Invalid
from api.version import __version__
from api.web.openapi import document
from api.web.versions import DEFAULT, VERSIONS

DOCUMENT = {"endpoint": "openapi", "route": "/api-docs/openapi.json", "rule_filter": lambda _rule: False}


def init_app(app: Flask) -> None:
    """Serve the document at /api-docs/openapi.json and Swagger UI at /api-docs."""
    Swagger(
        app,
        template={"info": {"title": "Walnut API", "version": __version__}},
        config={
            "openapi": "3.1.1",
            "title": "Walnut API",
            "headers": [],
            "auth": {},
            "specs": [DOCUMENT],
            "specs_route": "/api-docs",
            "oauth_redirect": "/api-docs/oauth2-redirect.html",
            "static_url_path": "/api-docs/assets",
            "static_folder": str(_dist()),
        },
    )
    app.view_functions["flasgger.openapi"] = serve  # flasgger would make it anew for each request
    app.view_functions["flasgger.oauth_redirect"] = lambda: abort(404)  # a page with an inline script, of no use to us
    app.view_functions["flasgger.apidocs"] = page  # and would say nothing of caches


def page() -> Response:
    """Show Swagger UI, of ?version=N: static/js/api-docs.js reads that."""
    _version()
    response = Response(render_template("flasgger/index.html", versions=VERSIONS))
    response.headers["Cache-Control"] = "no-cache"
    response.add_etag()
    response.make_conditional(request.environ)
    return response


def serve() -> Response:
    """Answer with the document of ?version=N, 1 unless said otherwise."""
    body, tag = _rendered(current_app._get_current_object(), _version())  # type: ignore[attr-defined]
    response = Response(body, headers={"ETag": tag, "Cache-Control": "no-cache"}, content_type="application/json")
    response.make_conditional(request.environ)
    return response


def _version() -> int:
    """Return the version that is asked for. Raises Invalid if there is none such."""
    version = request.args.get("version", str(DEFAULT))
    if version not in map(str, VERSIONS):
        known = ", ".join(map(str, VERSIONS))
        raise Invalid("There is no such version of the API.", fields=[("/version", f"Give one of: {known}.")])
    return int(version)


@lru_cache(maxsize=8)
def _rendered(app: Flask, version: int) -> tuple[bytes, str]:
    body = orjson.dumps(document(app, version))
    return body, f'"{hashlib.blake2b(body, digest_size=12).hexdigest()}"'


def _dist() -> Path:
    """Return the folder of Swagger UI's files. The package is not imported: it would only add a blueprint."""
    spec = find_spec("flask_swagger_ui")
    if spec is None or spec.origin is None:
        raise ImportError("flask-swagger-ui is not installed")
    return Path(spec.origin).parent / "dist"
