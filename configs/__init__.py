"""The training configs that come with f2jax: `f2jax train --config stage2:size=80m` finds them by name."""
