"""What is made once before training: synthetic captions and teacher embeddings (spec 2.1)."""
