"""Files, folders, stores and the terminal: the only modules that open what a user names."""
