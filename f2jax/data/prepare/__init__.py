"""How a corpus is made, by `f2jax prepare`: each module is one step.

1. `intake.py` reads the inputs and curates their records; `survey.py` counts what each brings to which data set.
2. `spill.py` writes the texts to disk, in buckets that are small enough to sort in memory.
3. `builder.py` tokenizes them into TFDS data sets of documents and rows.
4. `card.py` describes each data set, counted from what was written.

`pipeline.py` runs these steps, in processes or on Beam, and makes again only what changed. `f2jax/data/corpus.py` reads
what comes out.
"""
