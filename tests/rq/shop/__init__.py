"""The jobs of these tests: plain functions of modules, as RQ wants them."""
