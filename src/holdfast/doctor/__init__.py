"""Looks whether everything is as it must be: engines, schema, settings, and every invariant of the sale.

checks       one look at everything: what was found, and what mends it
gates        the gates of all events against PostgreSQL, and their repair
examine      looks again at what failed, since work is in flight
"""
