"""The journal on every SQL dialect that this machine offers."""
