"""The delivery agent: takes mail in, keeps it safe, and delivers it within the limits."""
