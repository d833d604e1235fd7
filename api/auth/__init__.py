"""Signing up, in and out: passwords, sessions and tokens."""
