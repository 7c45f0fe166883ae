"""``python -m deerflow_conformance`` is ``deerflow-conformance``."""

import sys

from deerflow_conformance.cli import main

if __name__ == "__main__":
    sys.exit(main())
