"""FastGHA: few-shot 3D Gaussian head avatars. The library behind the `fastgha` command."""
