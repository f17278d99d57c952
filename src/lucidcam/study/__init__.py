"""A study with people: which class does an explanation show, which model can be relied on (Selvaraju et al. 2017, sections 5.1 and 5.2).

lucidcam.study.make("study.toml", "study")     # explains the photos, writes pictures and plan
lucidcam.study.serve("study")                  # http://127.0.0.1:8080/
lucidcam.study.report("study", "study.html")   # accuracy, trust and agreement, with intervals
"""

from lucidcam.study.agreement import fleiss_kappa, krippendorff_alpha, randolph_kappa
from lucidcam.study.config import Config, Trust, WhichClass
from lucidcam.study.findings import Findings, report
from lucidcam.study.making import make
from lucidcam.study.pages import application, serve
from lucidcam.study.plan import Plan

__all__ = [
    "Config",
    "Findings",
    "Plan",
    "Trust",
    "WhichClass",
    "application",
    "fleiss_kappa",
    "krippendorff_alpha",
    "make",
    "randolph_kappa",
    "report",
    "serve",
]
