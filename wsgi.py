"""For any WSGI server: `gunicorn -c gunicorn.conf.py wsgi:app`. `walnut serve` does this and more."""

from api import create_app

app = create_app()
