"""Rules, pure: option values, layers, sites, and how they resolve to an answer."""
