"""Flask, without the work that no request of ours needs: 20 microseconds of each (docs/performance.md)."""

from collections.abc import Callable
from typing import Any

from flask import Flask, Request, Response
from flask.globals import request_ctx
from werkzeug.routing import MapAdapter


class NoContent(Response):
    """204, or another answer without a body: so nothing is said about one."""

    default_mimetype = None
    default_status = 204


class Answer(Response):
    """A response whose headers are final, so that Werkzeug need not look them over: that costs 20 microseconds."""

    def get_wsgi_headers(self, environ: Any) -> Any:
        """Return the headers of a success as they are."""
        return self.headers if self.status_code in (200, 201) else super().get_wsgi_headers(environ)


class App(Flask):
    """Flask for views that are all synchronous, whatever host they are asked for."""

    def ensure_sync(self, func: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function: Flask would look three times a request whether it is a coroutine."""
        return func

    def create_url_adapter(self, request: Request | None) -> MapAdapter | None:
        """Return what matches the request's path. The host plays no part, so it is not taken apart and encoded."""
        if request is None or self.subdomain_matching or self.url_map.host_matching or self.config["TRUSTED_HOSTS"]:
            return super().create_url_adapter(request)
        environ = request.environ
        return MapAdapter(
            self.url_map,
            environ.get("HTTP_HOST") or environ["SERVER_NAME"],
            environ.get("SCRIPT_NAME") or "/",
            "",
            environ["wsgi.url_scheme"],
            environ.get("PATH_INFO", "").encode("latin1").decode(errors="replace"),  # PEP 3333
            environ["REQUEST_METHOD"],
            environ.get("QUERY_STRING", ""),
        )

    def make_default_options_response(self) -> Response:
        """Return the answer to OPTIONS of any route: which methods it knows (RFC 9110, 9.3.7)."""
        adapter: Any = request_ctx.url_adapter
        return NoContent(headers={"Allow": ", ".join(sorted(adapter.allowed_methods()))})
