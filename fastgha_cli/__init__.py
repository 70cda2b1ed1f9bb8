"""The `fastgha` command: arguments and printing, nothing else."""
