"""Holdfast: a ticketing system for the minute when everyone comes at once."""

__version__ = "0.1.0"
