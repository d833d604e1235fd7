"""What goes wrong on the command line: one clear line, and no traceback."""

import os
from typing import Any

import click
from marshmallow import Schema, ValidationError

from api.errors import Refusal, SettingsError
from api.migrations import upgrade


class Commands(click.Group):
    """A group whose faults of set-up are one clear line instead of a traceback."""

    def invoke(self, ctx: click.Context) -> object:
        """Run the command."""
        os.umask(0o077)  # all state is its owner's alone
        try:
            return super().invoke(ctx)
        except (SettingsError, upgrade.DatabaseError, Refusal) as error:
            raise click.ClickException(str(error)) from None


def checked(schema: Schema, **values: Any) -> dict[str, Any]:
    """Return the values if they pass the same rules as over HTTP. Raises ClickException."""
    try:
        found: dict[str, Any] = schema.load(values)
    except ValidationError as error:
        faults = dict(error.messages_dict).items()
        raise click.ClickException("; ".join(f"{name}: {' '.join(texts)}" for name, texts in faults)) from None
    return found
