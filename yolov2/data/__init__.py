"""Data sets: Pascal VOC folders, the built-in shapes, and batches of either."""
