"""Brokers behind HAProxy that are replaced one by one, and who reads meanwhile."""
