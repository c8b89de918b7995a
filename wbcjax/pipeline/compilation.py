"""The persistent compilation cache: a program compiled once is loaded by the next command."""

import os

import jax

from wbcjax.config import DataConfig


def use_compilation_cache(data: DataConfig) -> None:
    """Keep compiled programs under the cache folder, unless JAX_COMPILATION_CACHE_DIR names another place."""
    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        jax.config.update("jax_compilation_cache_dir", str(data.cache_dir.expanduser() / "jax"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
