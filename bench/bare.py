"""What Walnut is measured against: the least that a Flask route can do."""

from flask import Flask, Response, jsonify

app = Flask(__name__)


@app.get("/")
def hello() -> Response:
    """Answer, and do nothing else."""
    return jsonify(hello="world")
