"""`python -m selfimprove`."""

from selfimprove.cli.main import main

main()
