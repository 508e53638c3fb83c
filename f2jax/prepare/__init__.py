"""How `f2jax prepare` makes a corpus: each module is one step.

1. `read_inputs.py` reads each input, curates its records (`curate/`) and keeps a few numbers of those that stay.
2. `duplicates.py` finds duplicates over all inputs from these numbers, and lists them.
3. `datasets.py` says which data sets there will be, and which rows a cap keeps.
4. `spill.py` reads the inputs again, and writes the texts of the rows that stay in buckets that are small enough to
   sort in memory.
5. `tfds.py` tokenizes them into the files of TFDS data sets of documents and rows.
6. `describe.py` reads what was written once more, for the index and the data card (`data_card.py`), which says which
   data sets are finished.

`run.py` runs these steps, here or in processes (`workers.py`), and `add.py` knows the corpus to which sources are
added. `beam_graph.py` is all of it as one graph of Apache Beam, of the same functions of a row and of a shard. What
decides the content is in `options.py`. `f2jax/data/corpus.py` reads the result.
"""
