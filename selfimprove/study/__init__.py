"""A study: the arms of one recipe, each with every seed, held against a placebo and an oracle. Apart from the rest of
the package; `cli` alone imports it."""
