"""Checks of golden groups, registered on import."""
