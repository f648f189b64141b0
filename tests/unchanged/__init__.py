"""Compares, byte for byte, what a program sends with the plugin absent and with it installed, where nothing is marked.

`make unchanged` runs all of it, `make test` a part. Ids, clock, host name and pid are fixed in both runs; nothing else is
touched: what is compared is what passes a TCP proxy in front of the broker and of the result backend.
"""
