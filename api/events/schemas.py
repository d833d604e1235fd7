"""Events as the wire sees them."""

from marshmallow import Schema, fields
from marshmallow.validate import Regexp

from api.events.queries import POSITION
from api.web import Timestamp

TYPE = "Also the event's name. `reset`, which has nothing else: too much was missed, so fetch all anew."


class ListenQuery(Schema):
    """Where to go on."""

    last_event_id = fields.String(
        validate=Regexp(POSITION, error="Is no id of an event: take the last one you got, as in 17-204."),
        metadata={"description": "For clients that cannot send `Last-Event-ID`, which counts first.", "format": "text"},
    )


class Event(Schema):
    """The data of one event: what happened to what. A task has neither `request_id` nor what follows it."""

    type = fields.String(required=True, metadata={"example": "job.complete", "description": TYPE})
    id = fields.String(metadata={"format": "uuid", "description": "Of the task or the job."})
    at = Timestamp()
    request_id = fields.String(metadata={"format": "uuid", "description": "Of a job: its id once more."})
    vendor_type = fields.String(metadata={"example": "sync"})
    status = fields.String(metadata={"example": "complete", "description": "What the job was from then on."})
