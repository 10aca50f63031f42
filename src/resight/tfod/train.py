"""``python -m resight.tfod.train``: the name by which scripts call the old workflow's training."""

import runpy

if __name__ == "__main__":
    runpy.run_module("resight.cli.legacy_train", run_name="__main__")
