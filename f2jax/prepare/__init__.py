"""How `f2jax prepare` makes a corpus. Each module is a step:

1. `read_inputs.py` reads each input, curates its records (`curate/`), and stores a few numbers for each remaining row.
2. `duplicates.py` finds duplicates over all inputs from these numbers, and lists them.
3. `datasets.py` decides which data sets there will be, and which rows a cap keeps.
4. `spill.py` reads the inputs again, and writes the texts of the kept rows into buckets that are small enough to sort
   in memory.
5. `tfds.py` tokenizes them into the files of TFDS data sets, with documents and rows.
6. `describe.py` reads the result, for the index and for the data card (`data_card.py`), which lists complete data sets.

`run.py` runs these steps in this process or in several (`workers.py`), and `add.py` adds sources to an existing corpus.
`beam_graph.py` has all steps as a graph of Apache Beam, with the same functions for rows and shards. `options.py` has
the options that determine the content. `f2jax/data/corpus.py` reads the result.
"""
