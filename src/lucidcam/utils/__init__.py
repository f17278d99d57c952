"""What every part may use: text, progress, optional libraries, locks, fingerprints."""
