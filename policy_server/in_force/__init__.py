"""What is in force now: rules, sites and actions, read from SQL and kept current."""
