"""Time to read a TensorFlow checkpoint, all checksums verified, and to map it to weights.

python benchmarks/tfod_checkpoint.py CHECKPOINT   (a folder, a prefix, or a name of `resight zoo list`)
"""

import sys
import time

from resight.tfod.checkpoint.folder import find_tfod
from resight.tfod.checkpoint.reader import read_checkpoint
from resight.tfod.checkpoint.variables import to_state_dict
from resight.tfod.zoo import fetch

source = sys.argv[1]
path = source if find_tfod(source) else fetch(source)
size = sum(array.nbytes for array in read_checkpoint(path).values())  # and the file is in the page cache
reading, mapping = [], []
for _ in range(5):
    start = time.perf_counter()
    dict(read_checkpoint(path))
    reading.append(time.perf_counter() - start)
    start = time.perf_counter()
    _, facts = to_state_dict(read_checkpoint(path))
    mapping.append(time.perf_counter() - start)
print(f"{facts.text()}, {size / 1e6:.1f} MB")
print(f"read and verified: {min(reading):.2f} .. {max(reading):.2f} s")
print(f"read, verified and mapped to weights: {min(mapping):.2f} .. {max(mapping):.2f} s")
