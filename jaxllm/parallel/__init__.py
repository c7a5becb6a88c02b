"""Parallelism above the layers: pipelines, several processes, and the watchdog that ends them together."""
