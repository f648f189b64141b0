"""Speed, as ratios measured in one run against a peer or a limit. `python -m benchmarks` runs all of it."""
