"""How TensorFlow is loaded. What it finds is in the tests of the exports."""

import os
import re
import subprocess
import sys

# As TensorFlow's lines begin: I0000 00:00, 2026-11-29, To enable ...
CHATTER = re.compile(r"^([IWEF]?\d{4}|To enable|WARNING)|tensorflow/", re.MULTILINE)


def test_tensorflow_says_nothing_while_it_is_loaded_unless_it_is_asked_to(tfod_export):
    said = tfod_export.with_name("stderr").read_text()  # of a process that loaded all of it
    assert said and not CHATTER.search(said), said
    noisy = "import os; from resight.inference.tensorflow_session import quiet\nwith quiet(): os.write(2, b'options')"
    unset = {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}
    for environment, says in ((unset, ""), (unset | {"TF_CPP_MIN_LOG_LEVEL": "0"}, "options")):
        run = subprocess.run([sys.executable, "-c", noisy], env=environment, stderr=subprocess.PIPE, text=True)
        assert (run.returncode, run.stderr) == (0, says)
