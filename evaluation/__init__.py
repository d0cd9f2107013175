"""Evaluation: metrics, baselines, scores, runs that resume, and what is written."""
