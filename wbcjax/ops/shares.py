"""Work of each device on its own images, for what XLA's partitioner would gather the whole batch on every device first.

It does so for top-k, Fourier transforms, loops over parts of a batch, and convolutions under ``vmap``; and a loop that
ends when the data says so costs an exchange a round. The mesh is the one in use, as in a training step
(``jax.sharding.use_abstract_mesh``). Without one, on one device, or where it does not divide the batch, the functions
are computed as they stand.
"""

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import AxisType, PartitionSpec
from jaxtyping import Array


def per_image(function: Callable) -> Callable:
    """``jax.vmap(function)`` over images, split over the devices."""
    def mapped(*arrays: Any) -> Any:
        batched, axes = jax.vmap(function), _axes(arrays)
        if axes:
            batched = jax.shard_map(batched, in_specs=PartitionSpec(axes), out_specs=PartitionSpec(axes),
                                    check_vma=False)
        return batched(*arrays)

    return mapped


def on_shares(function: Callable[..., Array], images: Array, *whole: Array) -> Array:
    """``function(images, *whole)``, an array of as many images, each computed from its own and the ``whole`` arrays."""
    axes = _axes(images)
    if not axes:
        return function(images, *whole)
    of_share = jax.shard_map(function, in_specs=(PartitionSpec(axes), *[PartitionSpec()] * len(whole)),
                             out_specs=PartitionSpec(axes), check_vma=False)
    return of_share(images, *whole)


def sum_over_images(function: Callable[..., Array], *arrays: Array) -> Array:
    """``function(*arrays)``, which is a sum over their images: those of each device, then of all."""
    axes = _axes(arrays)
    if not axes:
        return function(*arrays)
    total = jax.shard_map(lambda *shares: jax.lax.psum(function(*shares), axes), in_specs=PartitionSpec(axes),
                          out_specs=PartitionSpec(), check_vma=False)
    return total(*arrays)


def _axes(arrays: Any) -> tuple[str, ...]:
    """Axes of the mesh over which the images lie; none within ``shard_map``, where a device has its own already."""
    mesh = jax.sharding.get_abstract_mesh()
    automatic = set(mesh.axis_types) == {AxisType.Auto}
    divides = automatic and mesh.size > 1 and len(jax.tree.leaves(arrays)[0]) % mesh.size == 0
    return mesh.axis_names if divides else ()
