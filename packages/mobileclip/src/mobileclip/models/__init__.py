"""The models of MobileCLIP: towers, folding for inference, key layouts of weight files."""
