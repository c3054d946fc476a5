"""The command ``dj-npy``: `main` has the table of subcommands, each of which is a module."""
