"""What things cost. ``pytest --benchmark-only`` runs every file here; OPS is calls per second."""

import yolov2  # noqa: F401 (in front of torch: it says how long libgomp's threads spin)
