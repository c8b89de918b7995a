"""What a command does to its process before JAX allocates anything."""

import os

import jax

from wbcjax.config import DataConfig
from wbcjax.training.allocator import keep_freed_memory
from wbcjax.training.distributed import initialize_distributed


def set_up_process(data: DataConfig) -> None:
    """Join the other processes where there are several, keep compiled programs under the cache folder, so that the next
    command loads them, and keep freed memory.

    The environment variable JAX_COMPILATION_CACHE_DIR names another place for the programs.

    Raises:
      ConfigError: as ``initialize_distributed`` does.
    """
    keep_freed_memory()
    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        jax.config.update("jax_compilation_cache_dir", str(data.cache_dir.expanduser() / "jax"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    initialize_distributed()
