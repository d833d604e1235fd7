"""The version, once, for the package, the API document and GET /health."""

__version__ = "0.1.0"
