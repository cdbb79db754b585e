"""From runs of Self-Lengthen on SmolLM2-135M to docs/evidence/self_lengthen.md."""
