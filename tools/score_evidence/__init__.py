"""From the raw values of SCoRe and its controls to docs/evidence/score.md."""
