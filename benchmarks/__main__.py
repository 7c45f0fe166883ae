"""Run the benchmarks: ``python -m benchmarks``."""

from benchmarks.app import main

if __name__ == "__main__":
    raise SystemExit(main())
