"""What a network learnt from a data set that it should not have, and where it fails: found, tried, told in plain words."""

from lucidcam.auditing.audit import audit
from lucidcam.auditing.findings import KINDS, Audit, Cluster, Evidence, Finding, read
from lucidcam.stats.contingency import Estimate

__all__ = ["KINDS", "Audit", "Cluster", "Estimate", "Evidence", "Finding", "audit", "read"]
