"""The versions of the API: /api/vN/... One list of routes serves them all."""

VERSIONS = (1,)
