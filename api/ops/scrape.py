"""What Prometheus reads at /health/metrics: the numbers of all worker processes of this replica, and of its disk.

For those who run Walnut, so only for callers on this machine or in a private network that ask directly. What came
through a proxy is refused, because behind one everybody seems to be near.
"""

import ipaddress
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flask import Flask, Response, current_app, request
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import GaugeMetricFamily, Metric

from api import db, metrics, scoreboard
from api.errors import NotFound
from api.jobs.gauges import gauges
from api.ops.processes import usage
from api.version import __version__

PROXIED = ("HTTP_X_FORWARDED_FOR", "HTTP_FORWARDED", "HTTP_VIA", "HTTP_X_REAL_IP")


def init_app(app: Flask) -> None:
    """Serve /health/metrics, at the root only."""
    app.add_url_rule("/health/metrics", "metrics", show)


def show() -> Response:
    """Show every metric of this replica, as text or as OpenMetrics."""
    if not _is_near(request.environ):
        raise NotFound("There is nothing at this address. /api-docs lists what there is.")
    try:
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
    except (TypeError, ValueError):  # a version that is no number
        encode, content_type = choose_encoder("")
    return Response(encode(Everything()), headers={"Cache-Control": "no-store"}, content_type=content_type)


class Everything:
    """All there is to see now, as prometheus_client's encoders ask for it."""

    def collect(self) -> Iterator[Metric]:
        """Yield each metric once."""
        folder = current_app.extensions.get("scoreboard")
        yield from scoreboard.collect(folder) if folder else metrics.REGISTRY.collect()
        build = GaugeMetricFamily("walnut_build_info", "Always 1; its label has the version.", labels=["version"])
        build.add_metric([__version__], 1)
        yield build
        yield from _disk(db.database().path)
        yield from gauges()
        yield from usage(scoreboard.living(folder), os.getppid()) if folder else usage([os.getpid()], None)


def _disk(database: Path) -> Iterator[Metric]:
    wal = database.with_name(f"{database.name}-wal")
    yield GaugeMetricFamily("walnut_database_bytes", "Size of the database file.", _size(database))
    yield GaugeMetricFamily("walnut_database_wal_bytes", "Size of its write-ahead log.", _size(wal))
    disk = os.statvfs(database.parent)
    yield GaugeMetricFamily("walnut_disk_free_bytes", "Room left on its disk.", disk.f_bavail * disk.f_frsize)


def _size(file: Path) -> int:
    """Return its size; never opens it, which would void SQLite's locks."""
    return file.stat().st_size if file.exists() else 0


def _is_near(environ: dict[str, Any]) -> bool:
    if any(name in environ for name in PROXIED):
        return False
    try:
        address = ipaddress.ip_address(environ.get("REMOTE_ADDR", ""))
    except ValueError:
        return False
    return not (getattr(address, "ipv4_mapped", None) or address).is_global
