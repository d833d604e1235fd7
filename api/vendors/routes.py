"""Vendors over HTTP."""

import dataclasses
from typing import Any, NoReturn

from sqlalchemy import Connection

from api.errors import NotFound
from api.secret_box import secret_box
from api.statements import Row
from api.vendors import addresses, keys, queries
from api.vendors.schemas import (
    SecretIn,
    VendorChange,
    VendorIn,
    VendorOut,
    VendorQuery,
    VendorSecretOut,
    VendorStateOut,
)
from api.web import Resource, for_audit, unchanged_since

vendors = Resource("vendors", __name__)
MANAGE = "vendors:manage"


@vendors.get("/vendors", query=VendorQuery(), returns=VendorStateOut(), many=True, allow=MANAGE)
def index(conn: Connection, query: dict[str, Any]) -> Any:
    """List vendors, by name unless `sort` says otherwise."""
    part = queries.find(conn, **query)
    return dataclasses.replace(part, items=[queries.with_state(conn, vendor) for vendor in part.items])


@vendors.post("/vendors", body=VendorIn(), returns=VendorSecretOut(), status=201, location="name", allow=MANAGE,
              audit="vendor.created", audited=VendorOut(), problems=(409,))  # fmt: skip
def create(conn: Connection, body: dict[str, Any]) -> Any:
    """Add a vendor. The answer has its secret, which is never shown again."""
    addresses.check(body["url"])
    key = body.pop("secret") or keys.new()
    return queries.create(conn, body, key, secret_box()) | {"secret": key}


@vendors.get("/vendors/<name>", returns=VendorStateOut(), allow=MANAGE, storable=False)
def show(conn: Connection, name: str) -> Any:
    """Fetch one vendor."""
    return queries.with_state(conn, queries.by_name(conn, name) or missing(name))


@vendors.patch("/vendors/<name>", body=VendorChange(partial=True), returns=VendorOut(), conditional=True, allow=MANAGE,
               audit="vendor.changed")  # fmt: skip
def change(conn: Connection, name: str, body: dict[str, Any]) -> Any:
    """Change some terms of a vendor. What is under way is not touched by it."""
    vendor = as_seen(conn, name)
    if "url" in body:
        addresses.check(body["url"])
    return queries.change(conn, vendor, body)


@vendors.delete("/vendors/<name>", status=204, conditional=True, allow=MANAGE, problems=(409,),
                audit="vendor.removed", audited=VendorOut())  # fmt: skip
def remove(conn: Connection, name: str) -> Any:
    """Delete a vendor. Refused while jobs for it wait or are under way."""
    queries.remove(conn, as_seen(conn, name))


@vendors.post("/vendors/<name>/secret", body=SecretIn(), returns=VendorSecretOut(), conditional=True, allow=MANAGE,
              audit="vendor.secret_rotated", audited=VendorOut())  # fmt: skip
def rotate(conn: Connection, name: str, body: dict[str, Any]) -> Any:
    """Replace the secret of a vendor. The one before is good for 24 hours more, and signs too."""
    key = body["secret"] or keys.new()
    return queries.rotate(conn, as_seen(conn, name), key) | {"secret": key}


def as_seen(conn: Connection, name: str) -> Row:
    """Return the vendor, if it is as the caller's If-Match says. Raises NotFound, PreconditionFailed."""
    vendor = queries.by_name(conn, name) or missing(name)
    unchanged_since(vendor)
    for_audit(before=vendor)
    return vendor


def missing(name: str) -> NoReturn:
    """Raise NotFound."""
    raise NotFound(f"There is no vendor {name[:63]}.")
