"""The dashboard: one page at / and its files under /static, no build step."""

from flask import Flask, Response


def init_app(app: Flask) -> None:
    """Serve the dashboard. Behind Nginx these files come from its disk and never get here."""
    app.config["SEND_FILE_MAX_AGE_DEFAULT"] = None  # "no-cache": checked by its ETag, so an upgrade shows at once

    @app.get("/")
    def dashboard() -> Response:
        """Show the dashboard."""
        return app.send_static_file("index.html")
