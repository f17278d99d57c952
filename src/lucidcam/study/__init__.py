"""A study with people: which class does an explanation show, which model can be relied on (Selvaraju et al. 2017, sections 5.1 and 5.2).

lucidcam.study.make("study.toml", "study")     # explains the photos, writes pictures and plan
lucidcam.study.serve("study")                  # http://127.0.0.1:8080/
lucidcam.study.report("study", "study.html")   # accuracy, trust and agreement, with intervals
lucidcam.study.remove("study", lucidcam.study.Criteria(silent=True))    # a flood of starts
"""

from lucidcam.stats.agreement import fleiss_kappa, krippendorff_alpha, randolph_kappa
from lucidcam.study.analysis import Findings, report
from lucidcam.study.build import make
from lucidcam.study.config import Config, Trust, WhichClass
from lucidcam.study.pages import application, serve
from lucidcam.study.plan import Plan
from lucidcam.study.removal import Criteria, Removal, find_removable, parse_numbers, remove

__all__ = [
    "Config",
    "Criteria",
    "Findings",
    "Plan",
    "Removal",
    "Trust",
    "WhichClass",
    "application",
    "find_removable",
    "fleiss_kappa",
    "krippendorff_alpha",
    "make",
    "parse_numbers",
    "randolph_kappa",
    "remove",
    "report",
    "serve",
]
