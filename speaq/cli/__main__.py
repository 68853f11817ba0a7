"""`python -m speaq.cli`: the command line where no script `speaq` is installed."""

from speaq.cli.main import main

main()
