"""The command `walnut`, also as `python -m api`."""

import signal

from flask.cli import ScriptInfo

from api import create_app, settings
from api.cli import walnut


def main() -> None:
    """Run the command line. The app is made only for commands that need it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends it without a traceback; `serve` takes over from here
    walnut(obj=ScriptInfo(create_app=lambda: create_app(settings.load(new=False))), prog_name="walnut")


if __name__ == "__main__":
    main()
