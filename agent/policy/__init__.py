"""The policy client: answers, suspensions, and what is known of them on disk."""
