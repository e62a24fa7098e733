"""Order and parameters: Prefect flows, and the `lsb` command."""
