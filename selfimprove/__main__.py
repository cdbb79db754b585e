"""`python -m selfimprove`."""

from selfimprove.cli.app import main

main()
