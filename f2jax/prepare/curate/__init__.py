"""Curation of records. Every step is optional; every change and every dropped row is counted with its reason."""

from f2jax.prepare.curate.options import CurationOptions
from f2jax.prepare.curate.steps import CurationReport, Outcome, curate_record

__all__ = ["CurationOptions", "CurationReport", "Outcome", "curate_record"]
