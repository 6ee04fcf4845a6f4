"""Trials: the outcomes on which rules are tried, and their sites."""
