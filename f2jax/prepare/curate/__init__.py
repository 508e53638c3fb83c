"""Curation of records: each step optional, each change counted, each row that is left out counted under a reason."""

from f2jax.prepare.curate.options import CurationOptions
from f2jax.prepare.curate.steps import CurationReport, Outcome, curate_record

__all__ = ["CurationOptions", "CurationReport", "Outcome", "curate_record"]
