"""What the options of methods, metrics and commands are."""
