"""How a corpus is made, by `f2jax prepare`: each module is one step.

1. `intake.py` reads each input once, curates its records and keeps those that stay (`records.py`), with a few numbers
   of each.
2. `duplicates.py` finds duplicates over all inputs from these numbers, on disk (`runs.py`).
3. `plan.py` says which data sets there will be, which rows a cap keeps, and what is made already.
4. `spill.py` writes the texts of the rows that stay, in buckets that are small enough to sort in memory.
5. `builder.py` tokenizes them into TFDS data sets of documents and rows.
6. `card.py` describes each data set, counted from what was written; `listing.py` lists the rows that were skipped.

`pipeline.py` runs these steps; `runners.py` has the ways to run one: here, in processes, on Beam. What decides the
content is in `options.py`. `f2jax/data/corpus.py` reads what comes out.
"""
