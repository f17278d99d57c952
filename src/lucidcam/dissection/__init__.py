"""What channels mean: which weigh most, what each alone would say, what to call them."""
