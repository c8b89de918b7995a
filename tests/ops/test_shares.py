"""Work on shares of a batch: what is computed where, and that it is the same."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractMesh, AxisType, Mesh, PartitionSpec, use_abstract_mesh

from wbcjax.ops.shares import on_shares, per_image, sum_over_images

TWO = AbstractMesh((2, 2), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)
IMAGES = np.random.default_rng(0).random((8, 5), np.float32)


def largest(image, offset):
    return jax.lax.top_k(image + offset, 2)[0]


def text(function, *arguments):
    """What is traced."""
    return str(jax.make_jaxpr(function)(*arguments))


def test_without_a_mesh_they_are_vmap_and_the_function_itself():
    offsets = np.arange(8, dtype=np.float32)
    np.testing.assert_array_equal(per_image(largest)(IMAGES, offsets), jax.vmap(largest)(IMAGES, offsets))
    np.testing.assert_array_equal(sum_over_images(lambda x: x.sum(0), jnp.asarray(IMAGES)), jnp.asarray(IMAGES).sum(0))
    np.testing.assert_array_equal(on_shares(jnp.matmul, jnp.asarray(IMAGES), jnp.eye(5)), IMAGES)
    assert "shard_map" not in text(per_image(largest), IMAGES, offsets)


def test_in_a_mesh_each_device_takes_its_own_images():
    with use_abstract_mesh(TWO):
        mapped = text(per_image(lambda x: jax.lax.top_k(x, 2)[0]), IMAGES)
        product = text(lambda x, y: on_shares(jnp.matmul, x, y), IMAGES, np.eye(5, dtype=np.float32))
        total = text(lambda x: sum_over_images(lambda x: x.sum(0), x), IMAGES)
    assert "shard_map" in mapped and "f32[2,2]" in mapped  # two of the eight images
    assert "shard_map" in product and "f32[2,5]" in product and "f32[5,5]" in product
    assert "shard_map" in total and "psum" in total and "f32[2,5]" in total


@pytest.mark.parametrize("count", [1, 6])
def test_batches_that_the_devices_do_not_divide_stay_whole(count):
    with use_abstract_mesh(TWO):
        assert "shard_map" not in text(per_image(jnp.sort), IMAGES[:count])
        assert "shard_map" not in text(lambda x: sum_over_images(lambda x: x.sum(0), x), IMAGES[:count])


def test_within_shard_map_a_device_has_its_images_already():
    mesh = Mesh(np.array(jax.devices()[:1]), ("data",), axis_types=(AxisType.Auto,))
    inner = jax.shard_map(per_image(jnp.sort), mesh=mesh, in_specs=PartitionSpec("data"),
                          out_specs=PartitionSpec("data"))
    assert text(inner, IMAGES).count("shard_map") == 1
    np.testing.assert_array_equal(inner(IMAGES), np.sort(IMAGES))
