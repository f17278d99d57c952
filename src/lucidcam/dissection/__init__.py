"""What channels mean: which weigh most, what each alone would say, what to call them."""

from lucidcam.dissection.bank import Bank
from lucidcam.dissection.channel_names import Meaning, Name, Names
from lucidcam.dissection.channels import Channel, Channels, channels
from lucidcam.dissection.concept_explanation import Word, Words, words
from lucidcam.dissection.naming import concepts

__all__ = ["Bank", "Channel", "Channels", "Meaning", "Name", "Names", "Word", "Words", "channels", "concepts", "words"]
