"""Reports on what a model finds, for people to look at."""
