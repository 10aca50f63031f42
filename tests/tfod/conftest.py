import os

# What TFOD itself computed, where RESIGHT_TFOD names a folder that holds it.
collect_ignore = [] if os.environ.get("RESIGHT_TFOD") else ["test_export_goldens.py"]
