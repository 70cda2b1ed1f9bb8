"""`python -m fastgha_cli` is `fastgha`."""

from fastgha_cli.app import main

main()
