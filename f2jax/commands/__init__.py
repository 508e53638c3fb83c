"""The commands of `f2jax`: a module each with `main(argv)`, which imports what it needs when it runs."""
