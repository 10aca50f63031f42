"""The typed configuration, and the names other tools have for its keys."""
