"""Every field of a training config with the reference's value (recipe 2); the other files change what differs."""

from ml_collections import ConfigDict

from f2jax.config import parse_options
from f2jax.errors import UserError
from f2jax.model.sizes import SIZES

# Per size: peak learning rate, epochs, teacher (recipe 2.2, table 1 of the F2LLM-v2 paper).
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
    """Returns the options on the config's path.

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
    """Returns the base of all stages; option: size."""
    size = options(text, size="0.6b")["size"]
    peak_lr, epochs, _ = HYPER_PARAMETERS[size]

    c = ConfigDict()
    c.seed = 0  # seed of fresh weights, batch order, negatives and instructions
    c.init_from = ""  # initial weights and tokenizer: folder, hub id, gs:// or workdir; "": fresh weights
    c.resume_from = ""  # begin from a checkpoint of another run, RUN or RUN@STEP, with its optimizer and step count
    c.epochs = epochs  # passes over the data; used if steps is 0
    c.steps = 0  # optimizer steps; 0: as many as the epochs take

    c.prompts = ConfigDict()  # {name: text put before a text}, released with the model; `query` and `document` are used
    c.prompts.query = ""  # by Embedder.encode_query
    c.prompts.document = ""  # by Embedder.encode_document

    c.model = m = ConfigDict()
    m.size = size  # a name in f2jax/model/sizes.py, or the folder of a model of that shape; "": that of init_from
    m.width = 0  # hidden size and dimension of embeddings; 0, as in the next six: that of model.size
    m.mlp = 0  # inner size of the MLP
    m.layers = 0  # decoder layers
    m.heads = 0  # query heads
    m.kv_heads = 0  # key/value heads, a divisor of heads
    m.head_dim = 0  # size of one head
    m.vocab = 0  # rows of the token table
    m.table_rank = 0  # factorize the token table, V × D, into V × rank × D; 0: a single table
    m.dtype = "bfloat16"  # type of activations and matmuls: bfloat16 or float32
    m.param_dtype = "float32"  # type of the stored weights; bfloat16 rounds away most updates at a rate below 1e-4
    m.kernel = "auto"  # attention: auto, xla, blocks (linear memory), cudnn or triton (GPU), segments or splash (TPU)
    m.remat = "full"  # what the backward pass recomputes: none, dots, mlp, qkv, full; see REMAT_POLICIES in qwen3.py
    m.unroll = 1  # layers per iteration of the scan over layers
    m.compiler_options = ()  # NAME=VALUE of XLA for the train step, added to the chip's in chips.py; NAME= removes one
    m.compile_ahead = True  # compile what the run is expected to need in a thread, while the first steps run
    m.chunk_rows = 0  # packed rows of data.row_length tokens that a device encodes at a time (GradCache); 0: all
    m.gradient_dtype = "float32"  # type in which copies of the weights exchange gradients of chunks, or bfloat16

    c.tokenizer = t = ConfigDict()
    t.path = ""  # tokenizer.json or SentencePiece model, or a folder with one; "": that of init_from
    t.train_vocab = 0  # pieces of a SentencePiece model to train on the data first; 0: do not train one

    c.data = d = ConfigDict()
    d.sources = ()  # files, globs, hub:, beir:, sts: …, built-in sets, or "corpus:FOLDER"; see f2jax prepare --help
    d.kinds = ()  # "SOURCE=KIND" for files whose rows do not say it, e.g. ("massive_*=clustering",)
    d.columns = ()  # "NAME=COLUMN" for files that call them otherwise, e.g. ("query=Frage", "positive=Antwort")
    d.include = ()  # names of data sets, or patterns; (): all
    d.exclude = ()  # names or patterns of data sets that are left out
    d.weights = ()  # "PATTERN=FACTOR": how often the batches of these data sets come, e.g. ("nli*=2", "code=0.5")
    d.language_temperature = 0.0  # balance languages: shares p become p^(1/temperature); 0: off, 1: as they are
    d.draw = "permuted"  # order of the batches of an epoch: permuted, or proportional as in the reference
    d.batch_size = 512  # queries in a step, over all devices
    d.max_length = 1024  # tokens of one text, end token included; longer ones are truncated
    d.row_length = 1024  # tokens of a packed row, or fewer, or up to twice as many, by batch; at least max_length
    d.programs = 0  # compiled shapes of packed rows, at most: more waste fewer tokens; 0: 12 with chunk_rows, else 48
    d.skip_steps = 0  # number of batches to leave out: step n trains on batch n + skip_steps, past a bad stretch
    d.validation_share = 0.01  # share of each data set's queries that is held out
    d.hold_out_texts = False  # train on no document of clustering that is a held-out query, as its text or a negative
    d.use_instructions = True  # put the task's instruction before each query (stage 2)
    d.instructions = ConfigDict()  # {SOURCE-KIND, source, symmetric or kind: task sentence}, for records without one
    d.symmetric_share = 0.3  # share of the documents of symmetric tasks that carry the instruction too
    d.symmetric_sources = ()  # sources whose tasks are symmetric: STS, bitext, paraphrase; clustering always is
    d.negatives = n = ConfigDict()
    n.retrieval = 7  # hard negatives for each retrieval query
    n.clustering = 9  # hard negatives for each clustering anchor
    n.classification = 1  # hard negatives for each text to classify

    c.loss = lo = ConfigDict()
    lo.contrastive_weight = 1.0  # weight of InfoNCE, over own negatives and in-batch; 0: the other terms alone
    lo.temperature = 0.05  # temperature of all softmaxes over cosine similarities
    lo.kind_temperatures = ()  # "KIND=TEMPERATURE" of rows that have another one: ("clustering=0.1",)
    lo.trained_temperatures = False  # train the temperature of each kind, from these on; at least 0.01
    lo.matryoshka = True  # train the nested dimensions 8, 16, … as well as the full width d
    lo.matryoshka_min = 8  # smallest nested dimension
    lo.matryoshka_weights = "sqrt_rank"  # sqrt_rank: sqrt(dim/d)/rank, the reference's; or uniform
    lo.exits = False  # also train the model cut after layers 1, 2, 4, 8, 16, 24 …, with the mean of their losses
    lo.nested_ranks = False  # each step draws a rank of the token table: 64, 128, 256 … model.table_rank
    lo.passage_gradient = False  # let the in-batch term train the passages too; the multi-GPU reference does not
    lo.label_mask = False  # do not count positives of rows with the row's label as negatives (retrieval)
    lo.mask_duplicates = False  # do not count a candidate equal to the row's positive as a negative
    lo.mask_margin = -1.0  # drop negatives that score above the positive plus this margin; below 0: off
    lo.shared_negatives_weight = 0.0  # weight of InfoNCE over the hard negatives of all rows, for retrieval
    lo.query_query_weight = 0.0  # weight of InfoNCE with the other rows' queries as a query's negatives, for retrieval
    lo.document_document_weight = 0.0  # the same for positives: each against those of the other rows
    lo.spread_weight = 0.0  # weight of the spread-out term: mean squared cosine of pairs of queries, and of positives
    lo.score_weight = 0.0  # weight of the KL divergence from a reranker's scores, which rows bring as column scores
    lo.score_temperature = 1.0  # temperature of the softmax over these scores; cosines have theirs
    lo.distill = "mse"  # distance of embeddings to the teacher's: mse (raw states, the reference's) or cosine
    lo.distill_weight = 1.0  # weight of that term; this and all below are used if there is a teacher
    lo.distill_projection = False  # train a matrix from the student's to all of the teacher's dimensions for that term
    lo.distill_matryoshka = False  # apply the distillation terms at the nested dimensions too
    lo.distill_hard_weight = 0.0  # weight of the KL divergence of scores over each row's positive and negatives
    lo.distill_in_batch_weight = 0.0  # weight of the KL divergence of scores over the positives of the batch
    lo.distill_texts_weight = 0.0  # weight of the KL divergence of scores among all texts of the batch, each taken once
    lo.distill_temperature = 0.05  # temperature of the softmaxes over these scores
    lo.distill_teacher_temperature = 0.0  # temperature of the teacher's softmaxes; 0: the same

    c.teacher = te = ConfigDict()
    te.path = ""  # folder, hub id, gs:// or workdir of the teacher; "": no distillation
    te.cache = ""  # instead of path: vectors that f2jax cache-teacher wrote for the corpus in data.sources
    te.dtype = "bfloat16"  # type of the teacher's weights and matmuls

    c.optim = o = ConfigDict()
    o.name = "adamw"  # optimizer: a name in f2jax/train/optim.py
    o.peak_lr = peak_lr  # learning rate after warm-up
    o.end_lr = 1e-7  # learning rate at the end of the schedule
    o.warmup_steps = 500  # steps of the linear warm-up from 0
    o.warmup_share = 0.0  # share of the steps that warm up, in place of warmup_steps; 0: as many as that says
    o.schedule = "cosine"  # shape after warm-up: cosine, linear, constant, or wsd: constant, then linear decay
    o.decay_steps = 0  # length of the decay of wsd; the runs that branch off before it serve several budgets
    o.b1 = 0.9  # decay of the first moment
    o.b2 = 0.98  # decay of the second moment
    o.eps = 1e-8  # added to the root of the second moment
    o.weight_decay = 0.01  # decoupled weight decay, on every weight as in the reference
    o.freeze = ()  # names of weights that stay as they are, as the run prints them, or patterns: ("token_table",)
    o.rate_factors = ()  # "PATTERN=FACTOR" of the learning rate of these weights: ("layers/*=0.3",)
    o.no_decay = ()  # names of weights without weight decay, or patterns: ("*norm*",)
    o.clip_norm = 1.0  # maximum norm of the global gradient; 0: no clipping
    o.state_dtype = "float32"  # type of the moments: float32 or bfloat16

    c.mesh = me = ConfigDict()
    me.replica = -1  # copies of everything, a multiple of the number of slices; -1: one for each slice
    me.data = -1  # devices that share the rows of a batch; -1: all that the other axes leave over
    me.fsdp = 1  # devices that share the weights as well as the rows
    me.tensor = 1  # devices that split heads and MLP

    c.checkpoint = k = ConfigDict()
    k.every = 5000  # steps between checkpoints
    k.minutes = 30.0  # also save after this many minutes without a checkpoint; 0: by steps only
    k.keep_last = 2  # number of newest checkpoints that are kept
    k.keep_every = 5000  # checkpoints at multiples of this are kept for good; 0: none
    k.best_metric = ""  # also keep the best checkpoint by a validation/… or evaluation/…: the highest, of a loss lowest
    k.tail_steps = 2500  # length of the end of training in which checkpoints are more frequent, for merging
    k.tail_every = 500  # steps between those checkpoints, which are kept for good

    c.log = lg = ConfigDict()
    lg.every = 10  # steps between lines of metrics.jsonl
    lg.validate_every = 1000  # steps between validations, the last of which follows the last step; 0: none at all
    lg.validation_batches = 1  # batches of each data set's held-out share; 0: all
    lg.validation_dims = (64, 256)  # vectors cut to these sizes are measured there too, if the loss trains nested ones
    lg.evaluate_every = 0  # steps between scores of tasks, the last of which follow the last step; 0: none
    lg.evaluate_tasks = ()  # built-in and local tasks of f2jax evaluate; (): the built-in ones, or those of the data
    lg.evaluate_data = ()  # folder of the local tasks' data, or your own files, as --data of f2jax evaluate
    lg.compare = False  # end with scores of the model before and after on held-out rows, beside TF-IDF
    lg.tensorboard = True  # write TensorBoard event files next to metrics.jsonl
    lg.profile = ()  # (START, STEPS): trace so many steps after step START into profile/, for TensorBoard and XProf
    return c
