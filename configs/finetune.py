"""Fine-tune a finished model on your own data. A few hundred rows and a laptop are enough.

f2jax train --config finetune:data=faq.csv --workdir tuned
f2jax train --config finetune:data=faq.csv,query=Frage,positive=Antwort,model=Qwen/Qwen3-Embedding-0.6B --workdir tuned

The learning rate depends on the size of the model, the first tenth of the steps is warm-up, and queries get the
instruction that the model was trained with. A tenth of the rows is held out, and the run ends by comparing the scores
of the model on these rows before and after.
"""

from f2jax.configs import common
from f2jax.data.instructions import split_instruction

COLUMNS = ("query", "positive", "negative", "text", "label", "sentence1", "sentence2", "score")
RATE, PARAMETERS = 2e-5, 600e6  # learning rate for a model of this size; smaller models take larger steps
LARGEST_RATE = 3e-4
LONGEST = 512  # maximum tokens of a text


def get_config(text=None):
    """Options: data, model (to start from), epochs, teacher, and the names of columns that have unusual ones.

    Raises:
        UserError: the model cannot be read.
    """
    defaults = {"data": "", "model": "mini", "epochs": 3, "teacher": ""} | dict.fromkeys(COLUMNS, "")
    options = common.options(text, **defaults)

    from f2jax.checkpoints import package, workdir

    folder = workdir.find_model(options["model"]).path
    architecture = workdir.read_architecture(folder)
    settings = package.read_settings(folder, architecture)
    task, _ = split_instruction(settings.prompts.get("query", ""))

    config = common.small_config("0.6b")
    config.init_from = options["model"]
    config.epochs = options["epochs"]
    config.model.size = ""
    config.model.table_rank = architecture.table_rank
    config.model.dtype = "float32"
    config.data.sources = (options["data"],) if options["data"] else ()
    config.data.columns = tuple(f"{name}={options[name]}" for name in COLUMNS if options[name])
    config.data.instructions.retrieval = task or ""
    config.data.instructions.symmetric = ""  # in a pair of sentences, neither is a question
    config.data.batch_size = 32
    config.data.max_length = config.data.row_length = min(settings.max_length, LONGEST)
    config.data.programs = 3  # each program takes seconds to compile
    config.data.validation_share = 0.1
    config.data.hold_out_texts = True
    config.data.negatives.retrieval = 4
    config.data.negatives.clustering = 4
    config.loss.passage_gradient = True
    config.loss.mask_duplicates = True
    config.optim.peak_lr = min(LARGEST_RATE, RATE * (PARAMETERS / architecture.parameters) ** 0.5)
    config.optim.warmup_share = 0.1
    config.checkpoint.every = 500
    config.log.compare = True
    config.log.validate_every = 0
    if options["teacher"]:
        config.teacher.path = options["teacher"]
        config.loss.distill_weight = 0.0
        config.loss.distill_in_batch_weight = 1.0
    return config
