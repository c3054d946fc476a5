"""The command ``dj-npy``: `main` lists the subcommands; each is a module."""
