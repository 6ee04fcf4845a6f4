"""Leases: what the limit service lends to this process, fetched and kept current."""
