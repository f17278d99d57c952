"""The web app: look at a model in a browser, on this machine, without a call to the outside."""

from lucidcam.web.limits import Limits
from lucidcam.web.server import Server, build, serve

__all__ = ["Limits", "Server", "build", "serve"]
