"""Writes to buyers what became of their orders."""
