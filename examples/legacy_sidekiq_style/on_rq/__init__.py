"""The same shop on RQ: jobs are plain functions, told twice as well.

The bank, its client, the shop's own tables and the stories are those of the package around this one.
"""
