"""What things cost. ``pytest --benchmark-only`` runs every file here; OPS is calls per second."""
