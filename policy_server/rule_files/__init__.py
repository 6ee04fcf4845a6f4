"""Rule files: reading TOML and JSON, with the line of every entry."""
