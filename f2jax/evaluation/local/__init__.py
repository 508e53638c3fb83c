"""Tasks on real data in a local folder. A new one is a small file like the others, and its class in TASKS."""

from f2jax.evaluation.local.banking77 import Banking77
from f2jax.evaluation.local.humaneval_x import HumanEvalX
from f2jax.evaluation.local.sib200 import SIB200, SIB200Clustering
from f2jax.evaluation.local.stsb import STSB
from f2jax.evaluation.local.tatoeba import Tatoeba
from f2jax.evaluation.local.xquad import XQuAD

TASKS = {task.metadata.name: task for task in (Tatoeba, STSB, Banking77, SIB200, SIB200Clustering, XQuAD, HumanEvalX)}
