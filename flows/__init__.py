"""Prefect flows: order and parameters."""
