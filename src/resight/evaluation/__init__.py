"""Evaluation: the COCO numbers, the operating point and the report."""
