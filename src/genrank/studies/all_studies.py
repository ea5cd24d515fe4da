"""The studies by name.

A ranking study takes the recipes of one size with the user's settings; a variant's changes are applied after these.
"""

from collections.abc import Callable, Mapping

from genrank.studies.bases import Bases
from genrank.studies.grank import grank
from genrank.studies.input_studies import cold_start, features, modules
from genrank.studies.leakage import leakage
from genrank.studies.mechanisms import mechanisms
from genrank.studies.rankers import overall
from genrank.studies.sanity import a_a
from genrank.studies.scaling import scaling
from genrank.studies.study import Study
from genrank.studies.tokens import biases, table1

OF_RETRIEVAL: Mapping[str, Callable[[Bases], Study]] = {"grank": grank}
STUDIES: Mapping[str, Callable[[Bases], Study]] = {
    "table1": table1,
    "mechanisms": mechanisms,
    "modules": modules,
    "features": features,
    "biases": biases,
    "cold-start": cold_start,
    "overall": overall,
    "scaling": scaling,
    "leakage": leakage,
    "a-a": a_a,
    **OF_RETRIEVAL,
}
