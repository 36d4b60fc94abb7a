"""Benchmarks: ratios measured side by side in one run, results checked. Run by `make bench`."""
