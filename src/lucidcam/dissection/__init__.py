"""What channels mean: which weigh most, what each alone would say, what to call them."""

from lucidcam.dissection.bank import Bank
from lucidcam.dissection.channels import Channel, Channels, channels
from lucidcam.dissection.names import Meaning, Name, Names
from lucidcam.dissection.naming import concepts
from lucidcam.dissection.words import Word, Words, words

__all__ = ["Bank", "Channel", "Channels", "Meaning", "Name", "Names", "Word", "Words", "channels", "concepts", "words"]
