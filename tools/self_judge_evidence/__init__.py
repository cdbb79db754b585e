"""From runs of Self-J and its ablations on SmolLM2-135M to docs/evidence/self_judge.md."""
