"""The same shop with durable-adapter: compare with `diff -u before after`."""
