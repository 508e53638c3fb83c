"""All fields of a training config, with the reference's values (recipe 2). The other configs change some of them."""

from ml_collections import ConfigDict

from f2jax.config import parse_options
from f2jax.errors import UserError
from f2jax.model.sizes import SIZES

# Peak learning rate, epochs and teacher of each size (recipe 2.2, table 1 of the F2LLM-v2 paper).
HYPER_PARAMETERS = {
    "80m": (4e-5, 4, "0.6b"),
    "160m": (3e-5, 3, "0.6b"),
    "330m": (2e-5, 3, "0.6b"),
    "0.6b": (1e-5, 2, "1.7b"),
    "1.7b": (9e-6, 2, "4b"),
    "4b": (7e-6, 2, ""),
    "8b": (6e-6, 2, ""),
    "14b": (5e-6, 2, ""),
    "nano": (2e-3, 1, ""),
    "mini": (2e-3, 1, ""),
    "tiny": (2e-3, 1, ""),
}


def options(text: str | None, /, **defaults) -> dict:
    """Returns the options given after the config's name, checked.

    Raises:
        UserError: `size` is unknown, or `stage` is neither 1 nor 2.
    """
    values = parse_options(text, **defaults)
    if "size" in values and values["size"] not in HYPER_PARAMETERS:
        raise UserError(f"There is no size '{values['size']}'; sizes are {', '.join(SIZES)}.")
    if values.get("stage", 1) not in (1, 2):
        raise UserError(f"There is no stage {values['stage']}; stages are 1 and 2.")
    return values


def get_config(text: str | None = None) -> ConfigDict:
    """Returns the config that all others start from. Option: size."""
    size = options(text, size="0.6b")["size"]
    peak_lr, epochs, _ = HYPER_PARAMETERS[size]

    c = ConfigDict()
    c.seed = 0  # seed of the initial weights, the batch order, and the draws of negatives and instructions
    c.init_from = ""  # model to start from, with its tokenizer: folder, hub id, gs:// or workdir; "": random weights
    c.resume_from = ""  # continue a checkpoint of another run (RUN, RUN@STEP) with its optimizer, not init_from
    c.epochs = epochs  # passes over the data; ignored if steps is set
    c.steps = 0  # optimizer steps; 0: as many as the epochs take

    c.prompts = ConfigDict()  # {name: text prepended to a text}, saved with the model
    c.prompts.query = ""  # prepended by Embedder.encode_query
    c.prompts.document = ""  # prepended by Embedder.encode_document

    c.model = m = ConfigDict()
    m.size = size  # a name in f2jax/model/sizes.py, or the folder of a model of that shape; "": the shape of init_from
    m.width = 0  # hidden size and embedding dimension; 0 here and in the next six fields: the value of model.size
    m.mlp = 0  # inner size of the MLP
    m.layers = 0  # number of decoder layers
    m.heads = 0  # number of query heads
    m.kv_heads = 0  # number of key/value heads; must divide heads
    m.head_dim = 0  # dimensions of a head
    m.vocab = 0  # rows of the token table
    m.table_rank = 0  # factorize the token table, V × D, into V × rank and rank × D; 0: do not
    m.dtype = "bfloat16"  # dtype of activations and matrix products: bfloat16 or float32
    m.param_dtype = "float32"  # dtype of the stored weights; bfloat16 rounds away most updates at rates below 1e-4
    m.kernel = "auto"  # attention: auto, xla, blocks (linear memory), cudnn or triton (GPU), segments or splash (TPU)
    m.remat = "full"  # what the backward pass recomputes: none, dots, mlp, qkv or full; see REMAT_POLICIES in qwen3.py
    m.unroll = 1  # layers per iteration of the scan over layers
    m.compiler_options = ()  # XLA options NAME=VALUE for the train step, besides those in chips.py; NAME= removes one
    m.compile_ahead = True  # compile the programs that the run will need in a background thread during the first steps
    m.chunk_rows = 0  # packed rows of data.row_length tokens that a device encodes at a time (GradCache); 0: all
    m.gradient_dtype = "float32"  # dtype in which replicas exchange the gradients of chunks: float32 or bfloat16

    c.tokenizer = t = ConfigDict()
    t.path = ""  # tokenizer.json or SentencePiece model, or a folder with one; "": the tokenizer of init_from
    t.train_vocab = 0  # train a SentencePiece model with this many pieces on the data first; 0: do not

    c.data = d = ConfigDict()
    d.sources = ()  # files, globs, hub:, beir:, sts: …, built-in sets, or "corpus:FOLDER"; see f2jax prepare --help
    d.kinds = ()  # "SOURCE=KIND" for files whose rows do not state their kind, e.g. ("massive_*=clustering",)
    d.columns = ()  # "NAME=COLUMN" for files with other column names, e.g. ("query=Frage", "positive=Antwort")
    d.include = ()  # names or patterns of data sets to use; (): all
    d.exclude = ()  # names or patterns of data sets to leave out
    d.weights = ()  # "PATTERN=FACTOR": sample these data sets more or less often, e.g. ("nli*=2", "code=0.5")
    d.language_temperature = 0.0  # sample languages in proportion to share^(1/temperature); 1: as they are, 0: off
    d.draw = "permuted"  # order of the batches in an epoch: permuted, or proportional as in the reference
    d.mixed_batches = False  # draw each batch from all data sets of a kind; data.weights then names mixed-KIND
    d.batch_size = 512  # queries per step, over all devices
    d.max_length = 1024  # maximum tokens of a text, including the end token; longer texts are truncated
    d.row_length = 1024  # tokens of a packed row, at least max_length; some batches use fewer, or up to twice as many
    d.programs = 0  # maximum number of compiled shapes; more shapes mean less padding; 0: 12 with chunk_rows, else 48
    d.skip_steps = 0  # skip this many batches, e.g. bad ones: step n then trains on batch n + skip_steps
    d.validation_share = 0.01  # share of each data set's queries to hold out
    d.hold_out_texts = False  # do not train on clustering documents that are held-out queries, not even as negatives
    d.use_instructions = True  # prepend the task's instruction to each query (stage 2)
    d.instructions = ConfigDict()  # {SOURCE-KIND, source, `symmetric` or kind: instruction}, for records that have none
    d.symmetric_share = 0.3  # share of the documents of symmetric tasks that get the instruction too
    d.symmetric_sources = ()  # sources with symmetric tasks: STS, bitext, paraphrases; clustering always is
    d.negatives = n = ConfigDict()
    n.retrieval = 7  # hard negatives per retrieval query
    n.clustering = 9  # hard negatives per clustering anchor
    n.classification = 1  # hard negatives per text to classify

    c.loss = lo = ConfigDict()
    lo.contrastive_weight = 1.0  # weight of InfoNCE over hard and in-batch negatives; 0: train with the other terms
    lo.temperature = 0.05  # temperature of all softmaxes over cosine similarities
    lo.kind_temperatures = ()  # "KIND=TEMPERATURE" for kinds that need another one, e.g. ("clustering=0.1",)
    lo.trained_temperatures = False  # learn the temperature of each kind, starting from these values; at least 0.01
    lo.matryoshka = True  # also train the first 8, 16, … dimensions, up to the full width d
    lo.matryoshka_min = 8  # smallest of these dimensions
    lo.matryoshka_weights = "sqrt_rank"  # sqrt_rank: sqrt(dim/d)/rank as in the reference, or uniform
    lo.exits = False  # also train the model truncated after layers 1, 2, 4, 8, 16, 24 …; the losses are averaged
    lo.nested_ranks = False  # draw a rank of the token table at each step: 64, 128, 256 … model.table_rank
    lo.passage_gradient = False  # let the in-batch term train the passages too, unlike the reference on several GPUs
    lo.label_mask = False  # do not use positives with the row's own label as negatives (retrieval)
    lo.mask_duplicates = False  # do not use a candidate equal to the row's positive as a negative
    lo.mask_margin = -1.0  # drop negatives that score higher than the positive plus this margin; below 0: off
    lo.shared_negatives_weight = 0.0  # weight of InfoNCE over the hard negatives of all rows (retrieval)
    lo.query_query_weight = 0.0  # weight of InfoNCE with the other rows' queries as negatives of a query (retrieval)
    lo.document_document_weight = 0.0  # the same for documents: the other rows' positives as negatives of a positive
    lo.spread_weight = 0.0  # weight of the spread-out term: mean squared cosine between queries, and between positives
    lo.score_weight = 0.0  # weight of the KL divergence from a reranker's scores, in the column `scores` of the rows
    lo.score_margin_weight = 0.0  # weight of margin-MSE to these scores: by how much the positive beats each negative
    lo.score_temperature = 1.0  # the reranker's scores are divided by it, in both terms
    lo.distill = "mse"  # distance to the teacher's embeddings: mse (not normalized, as in the reference) or cosine
    lo.distill_weight = 1.0  # weight of that term; like all fields below, it is ignored without a teacher
    lo.distill_projection = False  # learn a projection from the student's to the teacher's dimensions for that term
    lo.distill_matryoshka = False  # apply the distillation terms to the nested dimensions too
    lo.distill_hard_weight = 0.0  # weight of the KL divergence of scores over each row's positive and negatives
    lo.distill_margin_weight = 0.0  # weight of margin-MSE: by how much the positive beats each negative
    lo.distill_in_batch_weight = 0.0  # weight of the KL divergence of scores over the positives in the batch
    lo.distill_texts_weight = 0.0  # weight of the KL divergence of scores between all distinct texts in the batch
    lo.distill_temperature = 0.05  # temperature that divides these scores, in softmaxes and margins
    lo.distill_teacher_temperature = 0.0  # temperature of the teacher's scores; 0: the same

    c.teacher = te = ConfigDict()
    te.path = ""  # folder, hub id, gs:// or workdir of the teacher; "": no distillation
    te.cache = ""  # instead of path: vectors that f2jax cache-teacher wrote for the corpus in data.sources
    te.dtype = "bfloat16"  # dtype of the teacher's weights and matrix products

    c.optim = o = ConfigDict()
    o.name = "adamw"  # optimizer: a name in f2jax/train/optim.py
    o.peak_lr = peak_lr  # learning rate after warm-up
    o.end_lr = 1e-7  # learning rate at the end of the schedule
    o.warmup_steps = 500  # steps of linear warm-up from 0
    o.warmup_share = 0.0  # share of the steps to warm up for, instead of warmup_steps; 0: use warmup_steps
    o.schedule = "cosine"  # shape after warm-up: cosine, linear, constant, or wsd (constant, then linear decay)
    o.decay_steps = 0  # steps of decay with wsd; runs of several lengths can branch off before it
    o.b1 = 0.9  # decay rate of the first moment
    o.b2 = 0.98  # decay rate of the second moment
    o.eps = 1e-8  # added to the square root of the second moment
    o.weight_decay = 0.01  # decoupled weight decay, on all weights as in the reference
    o.freeze = ()  # weights not to train, by the names that the run prints or patterns, e.g. ("token_table",)
    o.rate_factors = ()  # "PATTERN=FACTOR": scale the learning rate of these weights, e.g. ("layers/*=0.3",)
    o.no_decay = ()  # weights without weight decay, by names or patterns, e.g. ("*norm*",)
    o.clip_norm = 1.0  # maximum global norm of the gradient; 0: no clipping
    o.state_dtype = "float32"  # dtype of the moments: float32 or bfloat16

    c.mesh = me = ConfigDict()
    me.replica = -1  # copies of the whole model, a multiple of the number of slices; -1: one per slice
    me.data = -1  # devices that share the rows of a batch; -1: all that the other axes leave
    me.fsdp = 1  # devices that share the weights as well as the rows
    me.tensor = 1  # devices that share the heads and the MLP

    c.checkpoint = k = ConfigDict()
    k.every = 5000  # steps between checkpoints
    k.minutes = 30.0  # also save if the last checkpoint is this many minutes old; 0: go by steps only
    k.keep_last = 2  # number of newest checkpoints to keep
    k.keep_every = 5000  # also keep checkpoints at multiples of this step; 0: none
    k.best_metric = ""  # also keep the checkpoint with the best validation/… or evaluation/… metric (lowest for a loss)
    k.tail_steps = 2500  # length of the final phase with more frequent checkpoints, for merging
    k.tail_every = 500  # steps between checkpoints in that phase; all of them are kept

    c.log = lg = ConfigDict()
    lg.every = 10  # steps between lines of metrics.jsonl
    lg.validate_every = 1000  # steps between validations; there is one after the last step too; 0: never
    lg.validation_batches = 1  # batches of each data set's held-out share to validate on; 0: all
    lg.validation_dims = (64, 256)  # also validate vectors truncated to these sizes, if loss.matryoshka is on
    lg.evaluate_every = 0  # steps between evaluations on tasks; there is one after the last step too; 0: never
    lg.evaluate_tasks = ()  # built-in or local tasks of f2jax evaluate; (): the built-in ones, or evaluate_data's
    lg.evaluate_data = ()  # folder with data of local tasks, or your own files, as for --data of f2jax evaluate
    lg.compare = False  # finally score the model before and after training on the held-out rows, next to TF-IDF
    lg.tensorboard = True  # write TensorBoard event files next to metrics.jsonl
    lg.profile = ()  # (START, STEPS): trace this many steps after step START into profile/, for TensorBoard or XProf
    return c


def small_config(size: str) -> ConfigDict:
    """Returns the config of a small model that trains on a few cores."""
    config = get_config(f"size={size}")
    config.model.remat = "none"  # there is memory for all activations
    config.checkpoint.keep_every = 0  # no checkpoint is kept for good
    config.checkpoint.tail_steps = 0  # nor any for merging
    return config
