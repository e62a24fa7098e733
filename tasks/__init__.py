"""Prefect tasks: one call into `lsb` each, with retries. They exchange URIs and small records, never images."""
