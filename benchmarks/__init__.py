"""How fast the backends are, beside the least work that could do the job. Run: ``python -m benchmarks --help``."""
