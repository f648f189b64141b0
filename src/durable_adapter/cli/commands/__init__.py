"""The commands: one a file, named like the command; each holds `command`."""
