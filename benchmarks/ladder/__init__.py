"""What the simplifications cost, step by step: `python -m benchmarks.ladder`."""
