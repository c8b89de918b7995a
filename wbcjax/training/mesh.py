"""The device mesh: pure data parallelism over every device there is, on one host or many."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from wbcjax.errors import ConfigError


def data_mesh() -> Mesh:
    """One axis, ``data``, over all devices of all processes."""
    return Mesh(np.array(by_process(jax.devices())), ("data",), axis_types=(AxisType.Auto,))


def by_process(devices: Sequence[Any]) -> list[Any]:
    """Devices such that those of a process lie together: its share of a batch is then one slice, in its place.

    ``jax.make_mesh`` orders those of a TPU slice by where they are in the torus, across the hosts.
    """
    return sorted(devices, key=lambda device: (device.process_index, device.id))


def check_batch_size(batch_size: int, mesh: Mesh | AbstractMesh) -> None:
    """Refuse a batch that cannot be split evenly.

    Raises:
      ConfigError: if ``batch_size`` is no multiple of the number of devices.
    """
    if batch_size % mesh.size:
        larger = -(-batch_size // mesh.size) * mesh.size
        raise ConfigError(
            f"train.batch_size = {batch_size} cannot be split over {mesh.size} devices: use a multiple, e.g. {larger}"
        )


def replicate(tree: Any, mesh: Mesh) -> Any:
    """Place every leaf whole on each device."""
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))


def shard(tree: Any, mesh: Mesh, axis: int = 0) -> Any:
    """Split every leaf's ``axis`` over the devices; each process gives its own share of the global batch."""
    sharding = NamedSharding(mesh, PartitionSpec(*[None] * axis, "data"))
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, np.asarray(x)), tree)
