"""What a model that is no plain classifier can be asked: one file per task.

A task turns what is asked of a photo (a sentence, a question, a prompt, a box) into the module's inputs and a target on its outputs. Models
of `lucidcam.load` come with theirs; `lucidcam.wrap(module, …, task=…)` gives one to your own.
"""

from lucidcam.tasks._base import Written, split
from lucidcam.tasks.captions import Captions
from lucidcam.tasks.detections import Detections
from lucidcam.tasks.prompts import Prompts
from lucidcam.tasks.questions import OpenQuestions, Questions
from lucidcam.tasks.segments import Segments

__all__ = ["Captions", "Detections", "OpenQuestions", "Prompts", "Questions", "Segments", "Written", "split"]
