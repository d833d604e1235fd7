"""Health as the wire sees it."""

from marshmallow import Schema, fields

STATUS = {"enum": ["ok", "degraded"], "description": "`degraded`: it serves, but something beside it is down."}


class PartOut(Schema):
    """How one part is."""

    status = fields.String(metadata={"enum": ["ok", "down", "off"]})


class DatabaseOut(PartOut):
    """How the database is."""

    engine = fields.String(metadata={"example": "SQLite 3.53.4"})
    safe = fields.Boolean(metadata={"description": "false: this SQLite has the WAL-reset bug. Install pysqlite3."})


class MemoryOut(Schema):
    """How much memory the answering process has."""

    resident_bytes = fields.Integer()


class HealthOut(Schema):
    """How this server is."""

    status = fields.String(metadata=STATUS)
    version = fields.String(metadata={"example": "0.1.0"})
    uptime_seconds = fields.Integer()
    database = fields.Nested(DatabaseOut)
    redis = fields.Nested(PartOut)
    memory = fields.Nested(MemoryOut)
