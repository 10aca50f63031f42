"""Makes the goldens in this folder from the full ones, in a folder that RESIGHT_TFOD names: what TFOD itself computed.

Large arrays keep every so many entries along each axis: ``steps/NAME`` says how many. What no test reads goes.
"""

import json
import os
import re
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
# The first pattern that is found in "FILE:NAME" decides: the step along each axis, () for all of it, None for nothing.
STEPS: dict[str, tuple[int, ...] | None] = {
    r"^r101_train\w+:evalmode/|:step[12]/|:after3/": None,  # each costs seconds
    r"_train_\w+:rpn_features$": None,
    r":(step\d|evalmode)/(proposal|num_|.*(regularization|total)_loss$)": None,
    r":(rpn|det)_(cls_|reg_weights)|:(rpn_head|rpn)_features_mean$|:box_classifier_features_first4$": None,
    r":(frozen_stats_max_change|resizer_kind|num_classes|image_shape|true_image_shapes?)$": None,
    r":preprocessed$": (1, 8, 8, 1),
    r":rpn_features$|:roi_crops_first4$": (1, 1, 1, 64),
    r":roi_crops_mean$": (1, 64),
    r":box_classifier_features_mean$": (1, 64),
    r":raw_detection_scores$": (1, 8, 1),
    r":(grad|step\d/momentum)/.*features/layer_with_weights-0/kernel$": (1, 1, 1, 4),
    r":(grad|step\d/momentum)/.*_layers/1/kernel$": (8, 1),
    r":grad/.*features/layer_with_weights-1/": (),
    r":grad/.*features/": None,
    "": (),
}


def trimmed(file: str, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    kept = {}
    for name, array in arrays.items():
        steps = next(steps for pattern, steps in STEPS.items() if re.search(pattern, f"{file}:{name}"))
        if steps is None:
            continue
        kept[name] = array[tuple(slice(None, None, step) for step in steps)]
        if steps:
            kept[f"steps/{name}"] = np.array(steps)
    return kept


def main() -> None:
    full = Path(os.environ["RESIGHT_TFOD"]) / "goldens"
    for path in sorted(full.glob("*.npz")):
        with np.load(path) as arrays:
            np.savez_compressed(HERE / path.name, **trimmed(path.stem, dict(arrays)))
    for path in sorted(full.glob("*_gradnorms.json")):
        norms = json.loads(path.read_text()).items()
        lines = ",\n".join(json.dumps({key: {"norm": each["norm"]}})[1:-1] for key, each in norms)
        (HERE / path.name).write_text(f"{{\n{lines}\n}}\n")


if __name__ == "__main__":
    main()
