"""Importing rules: what is wrong with files, and what they would change, before any is written."""
