"""The audit trail, to be read and to be checked."""
