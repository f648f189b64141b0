"""Workflows that run in the process that starts them."""
