"""Intervals and tests over images: one copy, used by metrics, evaluation, audits and studies. Only NumPy is needed."""
