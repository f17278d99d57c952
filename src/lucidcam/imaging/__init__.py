"""Pictures: a photo made into a network's input, raw maps made into finished ones, and what is drawn of them."""
