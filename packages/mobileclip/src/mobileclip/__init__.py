"""MobileCLIP: multi-modal reinforced training, folding and export of small CLIPs."""
