"""The command line: options to arguments, reports to stdout, errors to exit codes."""
