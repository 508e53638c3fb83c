"""Curation of records: each step optional, each change counted, each row that is left out counted under a reason."""

from f2jax.prepare.curate.options import Options
from f2jax.prepare.curate.steps import Outcome, Report, curate, curate_record

__all__ = ["Options", "Outcome", "Report", "curate", "curate_record"]
