"""The policy server: answers how mail may leave over each egress path, and learns from replies."""
