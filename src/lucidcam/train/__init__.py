"""Training, with Lightning (extra `train`): networks of class activation mapping, and M-CAM's memory.

from lucidcam.train import train_gap

trained = train_gap("photos/", backbone="small", out="trained", epochs=10)
trained.model          # a lucidcam.Model, as lucidcam.load("trained") gives it
"""

from lucidcam.train.gap import Trained, train_gap
from lucidcam.train.memory import TrainedMemory, train_memory
from lucidcam.train.trainer import Training

__all__ = ["Trained", "TrainedMemory", "Training", "train_gap", "train_memory"]
