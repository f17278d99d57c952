"""What a data set taught a network wrongly: findings, ranked, with evidence."""
