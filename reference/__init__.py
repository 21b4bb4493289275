"""What every component of YOLOv2, YOLO9000 and YOLOv1 means, in plain NumPy.

This package is the oracle: the shortest correct code, proven against numbers of the original C
implementation, in float32 or float64 by the dtype that comes in. It imports NumPy and the standard
library and nothing else.
"""
