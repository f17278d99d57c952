"""What explanations cost on a user's own network and images: time beside the plain forward pass, memory, forward passes."""

from lucidcam.benchmark.result import Cost, Costs
from lucidcam.benchmark.run import bench

__all__ = ["Cost", "Costs", "bench"]
