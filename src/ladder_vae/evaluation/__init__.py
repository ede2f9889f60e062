"""Bounds of a run, part by part, and what becomes of them."""
