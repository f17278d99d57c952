"""What every page that lucidcam serves stands on: how it listens, and what is let in. The web app and the study use it.

`listening` opens the port and gives slow, idle and half-open connections up; `gate` checks each request before a page sees it; `login` asks
for a name and a password.
"""

from lucidcam.server.listening import Listening
from lucidcam.server.login import Login
from lucidcam.server.middleware import Gate, Names

__all__ = ["Gate", "Listening", "Login", "Names"]
