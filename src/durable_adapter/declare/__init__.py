"""Declarations: what a user says of steps and workflows, checked where it is written. Touches no queue and no database."""
