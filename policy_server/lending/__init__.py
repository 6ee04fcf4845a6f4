"""Lending, edge: where the lease book is kept, and by which of the servers."""
