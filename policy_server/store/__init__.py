"""SQL: the tables, and the stores that turn rows into values."""
