"""Stage 1: contrastive pre-training on retrieval pairs without instructions (recipe 2.1), for 0.6b to 14b.

f2jax train --config configs/stage1.py:size=0.6b --workdir DIR --config.init_from=Qwen/Qwen3-0.6B \\
    --config.data.sources='("corpus/*.parquet",)'
"""

from f2jax.configs import common


def get_config(text=None):
    """Option: size."""
    size = common.options(text, size="0.6b")["size"]
    config = common.get_config(f"size={size}")
    config.data.use_instructions = False
    return config
