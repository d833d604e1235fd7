"""Counting requests, exactly, over all processes: in Redis, otherwise in a file of this host. Knows nothing of HTTP."""
