"""The test journal, as a user's own unit tests use it."""
