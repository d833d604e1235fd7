"""What people prove themselves with: an address that is theirs, and a password that nobody else knows."""
