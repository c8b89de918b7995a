"""Pure functions of arrays with static shapes; batched by ``jax.vmap`` where they are used."""
