"""Clients that people use, unmodified, in an environment of their own: `scripts/test-clients`."""
