"""The commands of `f2jax`, a module each with `main(argv)`. What a command needs it imports when it runs."""
