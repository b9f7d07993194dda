"""bioFAME: frequency-aware masked autoencoders for biosignals (arXiv 2309.05927)."""
