"""What explanations cost on a user's own network and images: time beside the plain forward pass, memory, forward passes."""

from lucidcam.costs.bench import bench
from lucidcam.costs.report import Cost, Costs

__all__ = ["Cost", "Costs", "bench"]
