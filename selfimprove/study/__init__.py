"""A study: the arms of one recipe, each with every seed, held against a placebo and an oracle. Apart from the rest of
the package, which imports nothing from here. `python -m selfimprove.study STUDY.yaml [key=value ...]`."""
