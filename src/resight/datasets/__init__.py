"""Annotations in any format to a records folder: read, inspect, split, build."""
