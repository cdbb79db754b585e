"""The evidence for CREAM on SmolLM2-135M: matrix, collector, intervals, claims, page. See tools/evidence_cream.py."""
