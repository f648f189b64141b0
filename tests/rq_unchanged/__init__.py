"""RQ's own documented behaviour, of jobs that nobody marked: each test runs on plain RQ, and with the plugin in (P9)."""
