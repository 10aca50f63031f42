"""What an exported graph works out on the way to its detections has a name that begins so; a comparison asks for it."""

STAGE = "stage/"
