"""Breaks the cluster under load, and judges what became of the orders."""
