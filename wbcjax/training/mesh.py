"""The device mesh, over every device there is, on one host or many, and where batches and whole arrays lie on it."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from wbcjax.config import MeshConfig
from wbcjax.errors import ConfigError


def data_mesh() -> Mesh:
    """One axis, ``data``, over all devices of all processes: for evaluation, where every device holds all weights."""
    return Mesh(np.array(by_process(jax.devices())), ("data",), axis_types=(AxisType.Auto,))


def training_mesh(config: MeshConfig) -> Mesh:
    """Two axes, ``data`` and ``fsdp``; the devices of one ``fsdp`` group lie next to each other, on one host if they
    fit.

    Raises:
      ConfigError: as ``mesh_shape`` does.
    """
    devices = by_process(jax.devices())
    shape = mesh_shape(config, len(devices), jax.process_count())
    used = np.array(devices[: math.prod(shape)]).reshape(shape)
    return Mesh(used, ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)


def mesh_shape(config: MeshConfig, devices: int, processes: int) -> tuple[int, int]:
    """How many devices lie along ``data`` and ``fsdp``; a single process may be told to leave some idle.

    Raises:
      ConfigError: if the devices there are cannot be laid out like this.
    """
    data = devices // config.fsdp if config.data is None else config.data
    some = config.data is not None and processes == 1
    if data * config.fsdp != devices and not (some and data * config.fsdp < devices):
        raise ConfigError(f"train.mesh.data = {config.data} with train.mesh.fsdp = {config.fsdp} is impossible on "
                          f"{devices} devices: expected a product of {'at most' if some else 'exactly'} {devices}")
    return data, config.fsdp


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


def batch_sharding(mesh: Mesh, axis: int = 0) -> NamedSharding:
    """``axis`` of an array split over all devices, whatever the axes of the mesh."""
    return NamedSharding(mesh, PartitionSpec(*[None] * axis, mesh.axis_names))


def shard(tree: Any, mesh: Mesh, axis: int = 0) -> Any:
    """Split every leaf's ``axis`` over the devices; each process gives its own share of the global batch."""
    sharding = batch_sharding(mesh, axis)
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, np.asarray(x)), tree)
