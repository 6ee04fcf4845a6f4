"""The lease book in Valkey or Redis, for several servers that keep one book together."""
