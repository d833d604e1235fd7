"""API keys: what programs show instead of an access token. How one is read from a request: api/web/api_keys.py."""
