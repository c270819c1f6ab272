"""Decode vision from the brain: human-aligned image embeddings, small brain encoders, honest retrieval scores."""

__version__ = "0.1.0"
