"""What the verbs of the command line do, each a public function."""
