"""Functions of JAX's private modules that have no public counterpart; no other module imports `jax._src`."""

import glob
from pathlib import Path
from typing import Any

from jax._src import distributed, hardware_utils

ACCELERATORS = "0x12", "0xff"  # PCI classes of TPUs: processing accelerators, and devices without a class


def coordination_client() -> Any:
    """Returns the client of the job's coordinator, whose key-value store needs no computation; None outside a job."""
    return distributed.global_state.client


def has_tpu_chips() -> bool:
    """Returns whether this machine has TPU chips, without starting JAX's backend, which a job may only start later."""
    chips, _ = hardware_utils.num_available_tpu_chips_and_device_id()
    return chips > 0


def unknown_tpu_chips() -> list[str]:
    """Returns the PCI ids of Google's chips in this machine that this version of JAX does not know.

    Google's network cards and disks are on the bus too; their PCI class tells them apart.
    """
    found = []
    for path in glob.glob("/sys/bus/pci/devices/*/vendor"):
        files = (Path(path).with_name(name) for name in ("vendor", "device", "class"))
        vendor, device, kind = (file.read_text().strip() for file in files)
        is_chip = vendor == hardware_utils._GOOGLE_PCI_VENDOR_ID and kind.startswith(ACCELERATORS)
        if is_chip and device not in hardware_utils._TPU_PCI_DEVICE_IDS:
            found.append(device)
    return found
