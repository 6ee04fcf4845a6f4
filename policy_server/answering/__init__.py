"""Answering: from the bytes of a request to the bytes of its answer, from what is in force."""
