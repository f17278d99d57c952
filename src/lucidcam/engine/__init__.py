"""Talks to torch modules and knows no method: sessions, layers, cut forwards, masked streams, rules."""
