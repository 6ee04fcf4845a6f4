"""Version 1 of the wire contract, generated from proto/penstock/v1/."""
