"""``python -m resight.tfod.build_lisa_records``: the name by which scripts call the old workflow's first command."""

import runpy

if __name__ == "__main__":
    runpy.run_module("resight.cli.legacy_lisa_records", run_name="__main__")
