"""`python -m benchmarks`: what Stowage's figures are, measured side by side in one run, against what they should be."""
