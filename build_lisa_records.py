#!/usr/bin/env python3
"""``lisa/`` -> ``lisa/records/``, the old workflow's first command; ``--help`` lists its options."""

import sys

try:
    from resight.cli.legacy_lisa_records import main
except ModuleNotFoundError as error:
    print(f"error: the package '{error.name}' is not installed\n  pip install '{sys.path[0]}'", file=sys.stderr)
    sys.exit(2)

if __name__ == "__main__":
    main()
