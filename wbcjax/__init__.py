"""wbcjax: find white blood cells in smear images and tell their class, in JAX/Flax."""
