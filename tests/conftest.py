"""Fixtures for all tests: real servers, databases, processes and network faults."""

pytest_plugins = ["tests.servers.fixtures"]
