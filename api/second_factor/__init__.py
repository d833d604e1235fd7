"""The second factor of one's own account: to set it up, and to be rid of it."""
