"""How the bare route is served: by Walnut's gunicorn.conf.py, but with Gunicorn's own worker and log, which whoever
writes a Flask app without Walnut has. bench/servers.py serves it on Walnut's worker too, to show what that is worth.
"""

from pathlib import Path

exec(compile(Path(__file__).parents[1].joinpath("gunicorn.conf.py").read_text(), "gunicorn.conf.py", "exec"))
worker_class = "gevent"
logger_class = "gunicorn.glogging.Logger"
