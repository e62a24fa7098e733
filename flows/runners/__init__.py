"""Where copies of the one loop run: on this machine, in a work pool of Prefect's, on a Ray cluster."""
