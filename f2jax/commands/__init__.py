"""The commands of `f2jax`. Each is a module with `main(argv)`, which imports what it needs only when it runs."""
