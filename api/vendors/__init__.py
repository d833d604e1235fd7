"""Vendors: outside parties that jobs are for."""
