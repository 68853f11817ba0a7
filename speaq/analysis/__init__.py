"""What a trained run does inside: specialization of queries, one matching step by step, groups, latency."""
