"""What f2jax needs of JAX's private modules, which have no public counterpart; no other module imports `jax._src`."""

from typing import Any

from jax._src import distributed, hardware_utils


def coordination_client() -> Any:
    """Returns the client of the job's coordinator, whose key-value store needs no computation; None without a job."""
    return distributed.global_state.client


def has_tpu_chips() -> bool:
    """Returns whether this machine has TPU chips, without starting JAX's backend, which a job may do only later."""
    chips, _ = hardware_utils.num_available_tpu_chips_and_device_id()
    return chips > 0
